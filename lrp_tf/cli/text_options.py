"""The options of `lrp-tf explain-text`; needs no TensorFlow."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_tf.cli import options


def add_explain_text(parser: argparse.ArgumentParser) -> None:
    """The options of `lrp-tf explain-text`."""
    options.add_model_options(parser)
    parser.add_argument("texts", nargs="*", metavar="TEXT",
                        help="a text, @texts.txt (a text on each line of a file) or - (on standard input)")  # fmt: skip
    parser.add_argument("--file", type=Path, action="append", default=[], dest="files", metavar="FILE",
                        help="a text on each line; may be repeated")  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FILE|MODULE:FUNCTION",
                        help="a Hugging Face tokenizer (.json), a vocabulary with a token on each line (.txt), a "
                        "SentencePiece model (.model), or a function, text -> ids or (ids, tokens); a model that "
                        "begins with TextVectorization needs none")  # fmt: skip
    parser.add_argument("--sizes", type=_tokens, metavar="N",
                        help="tokens of each text, for a model that leaves this open: shorter ones are padded, longer "
                        "ones cut; default: each text has its own length")  # fmt: skip
    parser.add_argument("--pad", type=int, metavar="ID", help="of padding; default: as the tokenizer says, or 0")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names: JSON, or one per line")
    options.add_rule_options(
        parser, None, "attn_lrp; for a model with recurrent layers cp_lrp, which holds their gates"
    )
    parser.add_argument("--target", action="append", metavar="top1|topK:N|CLASS|TOKEN",
                        help="a class to explain, by number or name; of a language model a token, by number or as text"
                        "; may be repeated; default: top1")  # fmt: skip
    parser.add_argument("--contrast", metavar="softmax|mean|CLASS|TOKEN",
                        help="explain a class or token rather than the others, or rather than another one")  # fmt: skip
    parser.add_argument("--position", type=int, default=-1, metavar="N",
                        help="of a language model's output, from 0; negative: from the end of the text; default: -1, "
                        "the last token that is no padding")  # fmt: skip
    options.add_output(parser, Path("results"), what="texts at once; default: %(default)s")
    parser.add_argument("--png", action="store_true", help="a picture beside every page")
    parser.add_argument("--save-relevance", action="store_true", help="write .npy files, too")
    parser.add_argument("--cmap", metavar="NAME", help=f"{', '.join(options.PALETTES)}, any of matplotlib; default: "
                        "seismic, magnitude with --show abs")  # fmt: skip
    parser.add_argument("--color-gamma", type=float, default=1.0, metavar="G", help="below 1 shows faint relevance")
    parser.add_argument("--scale", type=options.scale, metavar="R|99%|page",
                        help="|R| of full colour: a number, a quantile of each text's words (99%%), the largest of all "
                        "targets of a text (page); default: the largest of each map's words")  # fmt: skip
    parser.add_argument("--show", choices=["signed", "abs"], default="signed", help="abs: |R|; default: signed")
    options.add_threads(parser)


def _tokens(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2 tokens, received {text}")
    return number


COMMANDS: dict[str, options.Command] = {
    "explain-text": (add_explain_text, "pages of what speaks for and against a class, or the next token, in texts"),
}
