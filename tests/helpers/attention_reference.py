"""AttnLRP and CP-LRP of the models in `transformers`, slowly, one sample at a time, in float64 NumPy.

Written from the papers: Achtibat et al. 2024 ("AttnLRP") and Ali et al. 2022 ("XAI for Transformers", here "cp"). Every
function gives outputs, and a function from their relevance to that of the inputs.
"""

import math

import numpy as np

EPSILON = 1e-9
ERF = np.vectorize(math.erf)


def s(z):
    return z + np.where(z >= 0, EPSILON, -EPSILON)


def linear(x, w, b=0.0):
    """[T, C] by [C, F]: the epsilon rule, contribution by contribution."""
    z = x @ w + b

    def back(R):
        found = np.zeros_like(x)
        for t, c in np.ndindex(*x.shape):
            found[t, c] = (x[t, c] * w[c] / s(z[t]) * R[t]).sum()
        return found

    return z, back


def add(a, b):
    z = a + b
    return z, lambda R: (a * R / s(z), b * R / s(z))


def layer_norm(x, gamma, beta, epsilon=1e-6):
    """1/sigma is held; what is left is linear in x, with the matrix (1 - 1/C) gamma / sigma."""
    size, rows, backs = x.shape[1], [], []
    for row in x:
        centering = np.eye(size) - 1 / size
        matrix = centering * gamma[None] / np.sqrt(row.var() + epsilon)
        y, back = linear(row[None], matrix, beta)
        rows.append(y[0])
        backs.append(back)
    return np.stack(rows), lambda R: np.stack([back(r[None])[0] for back, r in zip(backs, R, strict=True)])


def rms_norm(x, gamma, epsilon=1e-6):
    """1/rms is held: a multiple of every entry, which hands on what it gets."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gamma, lambda R: R


def gelu(x):
    return x * 0.5 * (1 + ERF(x / math.sqrt(2))), lambda R: R


def silu(x):
    return x / (1 + np.exp(-x)), lambda R: R


def gated(g, u, method):
    """silu(g) u: half and half, or all to u with the gate held."""
    h, _ = silu(g)
    return h * u, lambda R: (R / 2, R / 2) if method == "attn_lrp" else (np.zeros_like(R), R)


def softmax_row(x):
    """The Taylor expansion at x, from the Jacobian; x holds the scores that the mask leaves."""
    p = np.exp(x - x.max())
    p /= p.sum()

    def back(R):
        jacobian = np.diag(p) - np.outer(p, p)  # dp_j / dx_i
        return x * sum(jacobian[:, j] * R[j] / p[j] for j in range(len(p)))

    return p, back


def head(q, k, v, seen, method):
    """One head [T, size]; `seen[t]` are the positions that t attends to. R -> those of q, k and v."""
    scale = 1 / math.sqrt(q.shape[1])
    out, parts = np.zeros((len(q), v.shape[1])), []
    for t in range(len(q)):
        raw = np.array([q[t] @ k[j] for j in seen[t]])
        p, back = softmax_row(raw * scale)
        out[t] = sum(p[n] * v[j] for n, j in enumerate(seen[t]))
        parts.append((raw, p, back))

    def relevance(R):
        Rq, Rk, Rv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        for t, (raw, p, back) in enumerate(parts):
            share = 2 if method == "attn_lrp" else 1
            Rp = np.zeros(len(p))
            for n, j in enumerate(seen[t]):
                contribution = p[n] * v[j] * R[t] / (share * s(out[t]))
                Rv[j] += contribution
                Rp[n] = contribution.sum()
            if method == "cp_lrp":
                continue
            for n, r in enumerate(back(Rp)):  # the scale 1 / sqrt(size) hands on what it gets
                j = seen[t][n]
                contribution = q[t] * k[j] * r / (2 * s(raw[n]))
                Rq[t] += contribution
                Rk[j] += contribution
        return Rq, Rk, Rv

    return out, relevance


def attention(q, k, v, seen, method):
    """All heads, [T, N, size] each."""
    outs, backs = zip(*[head(q[:, n], k[:, n], v[:, n], seen, method) for n in range(q.shape[1])], strict=True)
    many = lambda R: [back(R[:, n]) for n, back in enumerate(backs)]  # noqa: E731
    return np.stack(outs, 1), lambda R: [np.stack(part, 1) for part in zip(*many(R), strict=True)]


def rotate(x):
    """RoPE: each pair turns, so that x contributes to two entries of the output."""
    size = x.shape[-1]
    angle = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    a, b, cos, sin = x[..., : size // 2], x[..., size // 2 :], np.cos(angle), np.sin(angle)
    y = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def back(R):
        g = R / s(y)
        ga, gb = g[..., : size // 2], g[..., size // 2 :]
        return np.concatenate([a * (cos * ga + sin * gb), b * (cos * gb - sin * ga)], -1)

    return y, back


# --- the models ---------------------------------------------------------------------------------


def weights_of(layer):
    return [np.asarray(w, "float64") for w in layer.weights if "seed" not in w.path]


def vision_transformer(model, image, target, method):
    """The logit of `target` and the relevance of the pixels [H, W, 3]."""
    w = {layer.name: weights_of(layer) for layer in model.layers}
    kernel, bias = w["patches"]
    size, width = kernel.shape[0], kernel.shape[-1]
    rows = range(0, image.shape[0], size)
    patches = np.stack([image[i : i + size, j : j + size].reshape(-1) for i in rows for j in rows])
    embedded, back_patches = linear(patches, kernel.reshape(-1, width), bias)
    token, positions = w["tokens"]
    x, back_positions = add(np.concatenate([token[0], embedded]), positions[0])
    backs = []
    for i in range(sum(name.startswith("attention") for name in w)):
        x, back = _encoder_block(x, w, i, method)
        backs.append(back)
    x, back_norm = layer_norm(x, *w["norm"])
    logits, back_head = linear(x[:1], *w["head"])
    R = np.zeros_like(logits)
    R[0, target] = logits[0, target]
    R = back_norm(np.concatenate([back_head(R), np.zeros((len(x) - 1, width))]))
    for back in reversed(backs):
        R = back(R)
    R, _ = back_positions(R)
    R, found = back_patches(R[1:]), np.zeros_like(image)
    for n, (i, j) in enumerate((i, j) for i in rows for j in rows):
        found[i : i + size, j : j + size] = R[n].reshape(size, size, -1)
    return logits[0, target], found


def _encoder_block(x, w, i, method):
    wq, bq, wk, bk, wv, bv, wo, bo = w[f"attention{i}"]
    shape = (len(x), *bq.shape)
    flat = lambda t: t.reshape(t.shape[0], -1) if t.shape[0] == x.shape[1] else t.reshape(-1, t.shape[-1])  # noqa: E731
    h, back_norm = layer_norm(x, *w[f"norm_a{i}"])
    (q, back_q), (k, back_k), (v, back_v) = (
        linear(h, flat(kernel), b.reshape(-1)) for kernel, b in ((wq, bq), (wk, bk), (wv, bv))
    )
    o, back_heads = attention(*(t.reshape(shape) for t in (q, k, v)), [list(range(len(x)))] * len(x), method)
    o, back_out = linear(o.reshape(len(x), -1), wo.reshape(-1, wo.shape[-1]), bo)
    x, back_add = add(x, o)
    h, back_norm_mlp = layer_norm(x, *w[f"norm_b{i}"])
    h, back_up = linear(h, *w[f"up{i}"])
    h, back_gelu = gelu(h)
    h, back_down = linear(h, *w[f"down{i}"])
    y, back_add_mlp = add(x, h)

    def back(R):
        R, R_mlp = back_add_mlp(R)
        R, R_out = back_add(R + back_norm_mlp(back_up(back_gelu(back_down(R_mlp)))))
        Rq, Rk, Rv = (t.reshape(len(x), -1) for t in back_heads(back_out(R_out).reshape(shape)))
        return R + back_norm(back_q(Rq) + back_k(Rk) + back_v(Rv))

    return y, back


def decoder(model, tokens, position, target, method, mask=None):
    """The logit of `target` at `position`, and the relevance of the tokens [T]."""
    (table,), (norm,), (kernel,) = (weights_of(model.get_layer(name)) for name in ("embedding", "norm", "head"))
    blocks = [layer for layer in model.layers if layer.name.startswith("block")]
    embedded = x = table[tokens]
    seen = [[j for j in range(t + 1) if mask is None or mask[j]] for t in range(len(x))]
    backs = []
    for block in blocks:
        x, back = _decoder_block(x, block, seen, method)
        backs.append(back)
    x, back_norm = rms_norm(x, norm)
    logits, back_head = linear(x, kernel)
    R = np.zeros_like(logits)
    R[position, target] = logits[position, target]
    R = back_norm(back_head(R))
    for back in reversed(backs):
        R = back(R)
    assert R.shape == embedded.shape
    return logits[position, target], R.sum(-1)


def _decoder_block(x, block, seen, method):
    w = {
        name: np.asarray(getattr(block, name).kernel, "float64") for name in ("q", "k", "v", "o", "gate", "up", "down")
    }
    size, each = block.size, block.heads // block.groups
    h, back_norm = rms_norm(x, np.asarray(block.scale_a, "float64"))
    (q, back_q), (k, back_k), (v, back_v) = (linear(h, w[name]) for name in "qkv")
    q, k, v = (t.reshape(len(x), -1, size) for t in (q, k, v))
    (q, turn_q), (k, turn_k) = rotate(q), rotate(k)
    o, back_heads = attention(q, k.repeat(each, 1), v.repeat(each, 1), seen, method)
    o, back_out = linear(o.reshape(len(x), -1), w["o"])
    x, back_add = add(x, o)
    h, back_norm_mlp = rms_norm(x, np.asarray(block.scale_b, "float64"))
    (g, back_gate), (u, back_up) = linear(h, w["gate"]), linear(h, w["up"])
    h, back_gated = gated(g, u, method)
    h, back_down = linear(h, w["down"])
    y, back_add_mlp = add(x, h)

    def back(R):
        R, R_mlp = back_add_mlp(R)
        Rg, Ru = back_gated(back_down(R_mlp))
        R, R_out = back_add(R + back_norm_mlp(back_gate(Rg) + back_up(Ru)))
        Rq, Rk, Rv = back_heads(back_out(R_out).reshape(q.shape))
        Rk, Rv = (t.reshape(len(x), -1, each, size).sum(2) for t in (Rk, Rv))
        R_parts = zip((back_q, back_k, back_v), (turn_q(Rq), turn_k(Rk), Rv), strict=True)
        return R + back_norm(sum(part(r.reshape(len(x), -1)) for part, r in R_parts))

    return y, back
