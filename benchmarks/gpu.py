"""Ratios to jax's own gradient on a machine that has a GPU, jax and perhaps torch, but no TensorFlow.

`export DIR`, where TensorFlow is, writes every preset, the gradient and the forward pass as StableHLO text, whose
weights are arguments, and a manifest that tells how to make weights and images: some megabytes. `run DIR`, where jax
is, makes them, compares relevance with what the export computed in float64, and measures. The unit is `jax.grad` of
the same net written in jax. zennit and captum are measured on torch, where they can be imported.

    python benchmarks/gpu.py export carried
    pip install -U "jax[cuda13]" torch==2.13.0 zennit captum; python benchmarks/gpu.py run carried --json gpu.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NETS = ("vgg16", "resnet50", "mobilenet", "tiny")
BATCHES = (1, 32, 128)
PRECISIONS = ("float32", "tf32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("export", "run"):
        command = commands.add_parser(name, help=f"{name}, see above")
        command.add_argument("folder", type=Path, metavar="DIR")
        command.add_argument("--model", nargs="+", choices=NETS, default=list(NETS[:2]))
        command.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
        command.add_argument("--only", nargs="+", metavar="PRESET", help="default: all")
    command.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    command.add_argument("--runs", type=int, default=15)
    command.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.command == "export":
        import gpu_export

        gpu_export.export(options.folder, options.model, options.only or gpu_export.PRESETS, options.batch)
        return
    import gpu_run

    manifest = json.loads((options.folder / "manifest.json").read_text(encoding="utf-8"))
    found = gpu_run.run(options.folder, manifest, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
