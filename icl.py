"""A GPT-2-style transformer for in-context learning, from scratch in NumPy.

A prompt x1, f(x1), x2, f(x2), ..., xN is a sequence of vectors. The transformer reads it from left
to right and at every x_k predicts f(x_k), having seen the examples 1..k-1 only. This file is all of
it: operations, forward pass, backward pass by hand, training step, optimisers, checkpoints.

An operation returns its output and a function `backward`, which takes the gradient of the loss
with respect to that output and returns the gradients with respect to the inputs, in their order.
There is no graph and no autograd library: the model's backward is its forward read in reverse.

Shapes: B prompts, N points, T = 2N - 1 tokens, Q of them queries, C channels, H heads, D = C / H,
d dims, M = BT rows.
"""
import os

# One BLAS thread each: train_step puts a shard of the batch on every core instead, so that all the
# work runs in parallel, not the matrix products alone. NumPy reads this once, when first imported.
for _library in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"):
    os.environ[f"{_library}_THREADS"] = "1"

import ctypes
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

# Where the C library is glibc, freed memory is kept for the next operation instead of going back to
# the system, page by page: won 7 to 15% of a tiny step. (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)
with suppress(AttributeError, OSError, TypeError):
    ctypes.CDLL(None).mallopt(-1, 1 << 30)
    ctypes.CDLL(None).mallopt(-3, 1 << 25)


@dataclass(frozen=True)
class Config:
    """Shape of a model; the defaults are the paper's (12 layers, 256 channels; arXiv 2311.00871).

    n_dims: dimension d of the inputs x. n_points: longest prompt N. n_embd: channels C.
    Raises ValueError where a number is not a positive integer or n_head does not divide n_embd.
    """
    n_dims: int
    n_points: int
    n_layer: int = 12
    n_head: int = 8
    n_embd: int = 256

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")

    def shapes(self):
        """Names and shapes of all parameters: GPT-2's, between Garg et al.'s read_in, read_out."""
        d, C = self.n_dims, self.n_embd
        shapes = {"read_in.weight": (d, C), "read_in.bias": (C,),
                  "wpe.weight": (2 * self.n_points, C)}  # the last row is never read
        for i in range(self.n_layer):
            h = f"h.{i}"
            shapes |= {f"{h}.ln_1.weight": (C,), f"{h}.ln_1.bias": (C,),
                       f"{h}.attn.c_attn.weight": (C, 3 * C), f"{h}.attn.c_attn.bias": (3 * C,),
                       f"{h}.attn.c_proj.weight": (C, C), f"{h}.attn.c_proj.bias": (C,),
                       f"{h}.ln_2.weight": (C,), f"{h}.ln_2.bias": (C,),
                       f"{h}.mlp.c_fc.weight": (C, 4 * C), f"{h}.mlp.c_fc.bias": (4 * C,),
                       f"{h}.mlp.c_proj.weight": (4 * C, C), f"{h}.mlp.c_proj.bias": (C,)}
        return shapes | {"ln_f.weight": (C,), "ln_f.bias": (C,),
                         "read_out.weight": (C, 1), "read_out.bias": (1,)}


# ------------------------------------------------------------------------------------- operations

def linear(x, weight, bias):
    """y = x W + b for rows x (M, I), weight (I, O), bias (O,).

    dx = dy W^T,  dW = x^T dy,  db = sum over rows of dy.
    """
    y = x @ weight  # (M, O)
    y += bias

    def backward(dy):
        return dy @ weight.T, x.T @ dy, _column_sums(dy)

    return y, backward


def layernorm(x, gain, bias, eps=1e-5):
    """y = gain * (x - mean) / sqrt(var + eps) + bias, over the channels of each row of x (M, C).

    With n the normalised row, g = gain * dy:  dx = (g - mean(g) - n mean(g n)) / sqrt(var + eps).
    Source: Ba, Kiros, Hinton 2016, arXiv 1607.06450, section 3.
    """
    C = x.shape[1]
    average = np.full(C, 1 / C, x.dtype)  # a row mean as a BLAS product: 4 times np.mean's speed
    n = x - (x @ average)[:, None]  # (M, C)
    rstd = 1 / np.sqrt(np.einsum("mc,mc->m", n, n)[:, None] / C + eps)  # (M, 1)
    n *= rstd
    y = n * gain
    y += bias

    def backward(dy):
        dyn = dy * n
        dgain, dbias = _column_sums(dyn), _column_sums(dy)
        mean_g, mean_gn = dy @ (gain / C), dyn @ (gain / C)  # (M,), (M,)
        dx = dy * gain
        dx -= mean_g[:, None]
        dx -= np.multiply(n, mean_gn[:, None], out=dyn)
        dx *= rstd
        return dx, dgain, dbias

    return y, backward


def gelu(x):
    """y = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): GPT-2's GELU; overwrites x.

    With p = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)):  y = x p,  dy/dx = p + 2 y (1 - p) du/dx.
    Source: Hendrycks, Gimpel 2016, arXiv 1606.08415, section 2.
    """
    a = math.sqrt(8 / math.pi)  # 2u = a x + b x^3
    b = 0.044715 * a
    x2 = x * x
    p = x2 * -b
    p -= a
    p *= x  # -2u
    with np.errstate(over="ignore"):  # exp(-2u) = inf is right: p = 0
        np.exp(p, out=p)
    p += 1
    np.divide(1, p, out=p)
    y = x * p
    x2 *= 3 * b
    x2 += a  # 2 du/dx
    x2 *= y
    np.subtract(1, p, out=x)
    x *= x2
    x += p  # x now holds dy/dx

    def backward(dy):
        return dy * x

    return y, backward


def attention(qkv, n_head, stride=1):
    """Causal multi-head attention. qkv (B, T, 3C) -> (B, Q, C), queries at tokens 0, stride, ...

    Each head: y_i = sum over j <= i of p_ij v_j, p_i the softmax of s_ij = q_i . k_j / sqrt(D).
    With e = exp(s - max), l = sum_j e:  y = e v / l. Backward, with g = dy / l:  dv = e^T g,
    ds = e (g v^T - sum(g y)),  dq = ds k / sqrt(D),  dk = ds^T q / sqrt(D).
    Source: Vaswani et al. 2017, arXiv 1706.03762, eq. 1; dividing by l last: Dao et al. 2022,
    arXiv 2205.14135, section 3.1.
    """
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(B, T, 3, n_head, C // n_head).transpose(2, 0, 3, 1, 4)  # (B, H, T, D)
    scale = (C // n_head) ** -0.5
    q = q[:, :, ::stride] * scale  # (B, H, Q, D)
    # Keys come first in memory, so that the softmax runs down long contiguous rows.
    e = np.empty((T, B, n_head, q.shape[2]), qkv.dtype)
    e_kq, e_qk = e.transpose(1, 2, 0, 3), e.transpose(1, 2, 3, 0)  # (B, H, T, Q), (B, H, Q, T)
    np.matmul(k, q.swapaxes(2, 3), out=e_kq)
    e += _causal_mask(T, stride, qkv.dtype)
    e -= e.max(0)
    np.exp(e, out=e)
    l = e.sum(0)[..., None]  # (B, H, Q, 1)
    y = np.empty((B, q.shape[2], n_head, C // n_head), qkv.dtype)
    y_heads = y.swapaxes(1, 2)  # (B, H, Q, D)
    np.matmul(e_qk, v, out=y_heads)
    y_heads /= l

    def backward(dy):
        dqkv = np.zeros_like(qkv) if stride > 1 else np.empty_like(qkv)
        dq, dk, dv = dqkv.reshape(B, T, 3, n_head, C // n_head).transpose(2, 0, 3, 1, 4)
        g = dy.reshape(y.shape).swapaxes(1, 2) / l  # (B, H, Q, D)
        np.matmul(e_kq, g, out=dv)
        ds = np.empty_like(e)
        ds_kq, ds_qk = ds.transpose(1, 2, 0, 3), ds.transpose(1, 2, 3, 0)
        np.matmul(v, g.swapaxes(2, 3), out=ds_kq)
        ds -= np.einsum("bhqd,bhqd->bhq", g, y_heads)
        ds *= e
        np.matmul(ds_kq, q, out=dk)
        np.multiply(ds_qk @ k, scale, out=dq[:, :, ::stride])
        return dqkv

    return y.reshape(B, -1, C), backward


def mean_squared_error(predictions, ys, weights):
    """loss = mean of w (predictions - ys)^2;  dpredictions = 2 w (predictions - ys) / size."""
    error = predictions - ys
    weighted = weights * error
    return np.mean(weighted * error), lambda: weighted * (2 / error.size)


def loss_weights(xs, ys):
    """Weights (B, N) for the loss: one over a forecast of f(x_k)^2, from x_k and the earlier y's.

    w_k = 1 / (v_k q_k),  v_k = (1 + sum_{i<k} y_i^2) / k,  q_k = (1 + |x_k|^2) / (1 + d).
    As w_k sees nothing of y_k or later, the posterior mean still has the least loss. But prompts of
    large values no longer rule the gradient.
    """
    B, N, d = xs.shape
    before = np.concatenate([np.zeros_like(ys[:, :1]), np.cumsum(ys[:, :-1] ** 2, axis=1)], axis=1)
    v = (1 + before) / np.arange(1, N + 1, dtype=ys.dtype)
    return (1 + d) / (v * (1 + np.sum(xs * xs, axis=2)))


@lru_cache
def _causal_mask(T, stride, dtype):
    """(T, 1, 1, Q) for keys and queries: 0, or -inf where the key is later than the query."""
    mask = np.triu(np.full((T, T), -np.inf, dtype), 1)[::stride]  # (Q, T)
    return np.ascontiguousarray(mask.T)[:, None, None, :]


def _column_sums(x):
    return np.ones(len(x), x.dtype) @ x  # twice the speed of x.sum(0)


# ------------------------------------------------------------------------------------- the model

def init_params(config, rng):
    """Fresh parameters: a dict of named float32 arrays, with config.shapes() for names and shapes.

    Weights are normal with standard deviation 1/sqrt(fan-in), which for narrow models learns far
    faster than GPT-2's fixed 0.02; projections into the residual stream are divided by
    sqrt(2 n_layer) as in GPT-2. Keys start at correlation -0.5 with queries, so that no token looks
    at itself first, and positions as waves, from one that alternates between x and f(x) tokens to
    ones that span the prompt. Gains start at one, biases at zero.
    """
    params = {}
    for name, shape in config.shapes().items():
        if name.endswith("bias"):
            params[name] = np.zeros(shape, np.float32)
        elif len(shape) == 1:
            params[name] = np.ones(shape, np.float32)
        else:
            std = shape[0] ** -0.5
            if name.endswith("c_proj.weight"):
                std /= math.sqrt(2 * config.n_layer)
            params[name] = (std * rng.standard_normal(shape)).astype(np.float32)
        if name.endswith("c_attn.weight"):
            query, key, _ = np.split(params[name], 3, axis=1)  # views, (C, C) each
            key *= math.sqrt(0.75)
            key -= 0.5 * query
    params["wpe.weight"] = position_waves(*params["wpe.weight"].shape)
    return params


def position_waves(T, C):
    """Initial positions (T, C): a cosine a channel, of frequencies from pi down to pi / T.

    After Vaswani et al. 2017, arXiv 1706.03762, section 3.5; standard deviation about 0.5.
    """
    frequency = math.pi * T ** -(np.arange(C) // 2 / max(1, C // 2 - 1))  # (C,), in pairs
    phase = np.arange(C) % 2 * math.pi / 2  # a sine beside each cosine
    return (math.sqrt(0.5) * np.cos(np.arange(T)[:, None] * frequency + phase)).astype(np.float32)


def interleave(xs, ys):
    """The prompt as tokens x1, (y1, 0, ..., 0), x2, ..., xN; nothing may depend on the last y.

    xs (B, N, d), ys (B, N) -> (B, 2N - 1, d). Source: Garg et al. 2022, arXiv 2208.01066.
    """
    B, N, d = xs.shape
    tokens = np.zeros((B, 2 * N, d), xs.dtype)
    tokens[:, ::2] = xs
    tokens[:, 1::2, 0] = ys
    return tokens[:, :-1]


def block(x, params, name, n_head, stride=1):
    """One pre-norm transformer block: x + attention(layernorm(x)), then the same with the MLP.

    x (B, T, C) -> (B, Q, C). With a stride only tokens 0, stride, ... come out: the last block
    computes what is read, the x positions.
    """
    B, T, C = x.shape
    weights = lambda op: (params[f"{name}.{op}.weight"], params[f"{name}.{op}.bias"])
    a, ln_1 = layernorm(x.reshape(-1, C), *weights("ln_1"))
    a, c_attn = linear(a, *weights("attn.c_attn"))  # (B T, 3C)
    a, heads = attention(a.reshape(B, T, 3 * C), n_head, stride)  # (B, Q, C)
    a, c_proj = linear(a.reshape(-1, C), *weights("attn.c_proj"))  # (B Q, C)
    a += x[:, ::stride].reshape(-1, C)
    m, ln_2 = layernorm(a, *weights("ln_2"))
    m, c_fc = linear(m, *weights("mlp.c_fc"))  # (B Q, 4C)
    m, act = gelu(m)
    m, mlp_c_proj = linear(m, *weights("mlp.c_proj"))  # (B Q, C)
    m += a

    def backward(dm, grads):
        def back(op, backward, dy):
            dx, grads[f"{name}.{op}.weight"], grads[f"{name}.{op}.bias"] = backward(dy)
            return dx

        da = back("mlp.c_proj", mlp_c_proj, dm)
        da = back("mlp.c_fc", c_fc, act(da))
        da = back("ln_2", ln_2, da)
        da += dm
        dx = back("attn.c_proj", c_proj, da)
        dx = heads(dx)
        dx = back("attn.c_attn", c_attn, dx.reshape(-1, 3 * C))
        dx = back("ln_1", ln_1, dx)  # (B T, C)
        dx.reshape(B, T, C)[:, ::stride] += da.reshape(B, -1, C)
        return dx

    return m.reshape(B, -1, C), backward


def transformer(params, config, xs, ys):
    """Predictions (B, N) at the x positions; their backward: dpredictions -> dict of gradients.

    The backward may be called once: on its way it lets go of what it has used.
    """
    tokens = interleave(xs, ys)  # (B, T, d)
    B, T, d = tokens.shape
    C = config.n_embd
    x, read_in = linear(tokens.reshape(-1, d), params["read_in.weight"], params["read_in.bias"])
    x = x.reshape(B, T, C)
    x += params["wpe.weight"][:T]
    blocks = []
    for i in range(config.n_layer):
        stride = 2 if i == config.n_layer - 1 else 1
        x, back = block(x, params, f"h.{i}", config.n_head, stride)
        blocks.append(back)
    x, ln_f = layernorm(x.reshape(-1, C), params["ln_f.weight"], params["ln_f.bias"])  # (B N, C)
    y, read_out = linear(x, params["read_out.weight"], params["read_out.bias"])  # (B N, 1)

    def backward(dy):
        grads = {}
        dx, grads["read_out.weight"], grads["read_out.bias"] = read_out(dy.reshape(-1, 1))
        dx, grads["ln_f.weight"], grads["ln_f.bias"] = ln_f(dx)
        while blocks:
            dx = blocks.pop()(dx, grads)  # a block's activations are freed once it is done
        grads["wpe.weight"] = np.zeros_like(params["wpe.weight"])
        grads["wpe.weight"][:T] = dx.reshape(B, T, C).sum(0)
        _, grads["read_in.weight"], grads["read_in.bias"] = read_in(dx)
        return grads

    return y.reshape(B, -1), backward


# ------------------------------------------------------------------------------------- every core

_threads = os.cpu_count()
_pool = ThreadPoolExecutor(_threads)


def set_threads(n):
    """Use n threads from now on. The numbers are the same, bit for bit, for every n."""
    global _threads, _pool
    _pool.shutdown(wait=False)
    _threads, _pool = n, ThreadPoolExecutor(n)


def threads():
    """How many threads are in use; from the start, one a core."""
    return _threads


def _shards(xs, *others):
    """Split the batch by its size alone, never by the number of threads: sums keep their bits."""
    tokens = len(xs) * (2 * xs.shape[1] - 1)
    least = 4 if tokens >= 2560 else 2  # 8 cost the paper's step 15% more on two cores
    n = min(max(least, tokens // 1280), len(xs))  # more tokens at once leave the cache
    return zip(*(np.array_split(a, n) for a in (xs, *others)))


def check_prompts(xs, ys, n_dims=None, n_points=None):
    """ValueError, naming what is wrong, unless xs (B, N, d) and ys (B, N) are prompts.

    Given n_dims, d must be it; given n_points, N must not exceed it. B and N are at least 1.
    """
    for name, a, want in (("xs", xs, f"(B, N, {n_dims or 'd'})"), ("ys", ys, "(B, N)")):
        if not isinstance(a, np.ndarray) or a.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} must be a float32 or float64 array, not "
                             f"{getattr(a, 'dtype', type(a).__name__)}")
        if a.ndim != want.count(",") + 1 or a.size == 0:
            raise ValueError(f"{name} must have shape {want}, nothing empty, not {a.shape}")
        if not np.isfinite(a).all():
            raise ValueError(f"{name} must be finite, and holds {a[~np.isfinite(a)][0]}")
    if ys.shape != xs.shape[:2]:
        raise ValueError(f"ys must have shape {xs.shape[:2]} like xs {xs.shape}, not {ys.shape}")
    if n_dims is not None and xs.shape[2] != n_dims:
        raise ValueError(f"xs must have {n_dims} dims, as the model was made for, not {xs.shape}")
    if n_points is not None and xs.shape[1] > n_points:
        raise ValueError(f"xs must have at most {n_points} points, as the model was made for, "
                         f"not {xs.shape}")


def predict(params, config, xs, ys):
    """Predictions (B, N) of f(x_k), each from x_k and the examples before it.

    So ys[:, -1] has no influence: where it is what you want to know, any finite number will do.

    xs (B, N, d), ys (B, N), with N up to config.n_points. Raises ValueError as check_prompts does.
    """
    check_prompts(xs, ys, config.n_dims, config.n_points)
    run = lambda shard: transformer(params, config, *shard)[0]
    return np.concatenate(list(_pool.map(run, _shards(xs, ys))))


def loss_and_grads(params, config, xs, ys, weights=None):
    """Mean squared error over all B N predictions, and its gradients under the parameters' names.

    weights (B, N), if given, of the squares in the mean. Raises ValueError as check_prompts does.
    """
    check_prompts(xs, ys, config.n_dims, config.n_points)
    weights = np.ones_like(ys) if weights is None else weights
    if np.shape(weights) != ys.shape:
        raise ValueError(f"weights must have shape {ys.shape} like ys, not {np.shape(weights)}")

    def run(shard):
        xs_here, ys_here, weights_here = shard
        predictions, backward = transformer(params, config, xs_here, ys_here)
        loss, error_backward = mean_squared_error(predictions, ys_here, weights_here)
        share = len(xs_here) / len(xs)
        return loss * share, backward(error_backward() * share)

    results = _pool.map(run, _shards(xs, ys, weights))
    loss, grads = next(results)
    for shard_loss, shard_grads in results:  # in the shards' order, whichever is done first
        loss += shard_loss
        for name, grad in shard_grads.items():
            grads[name] += grad
    return float(loss), grads


def train_step(params, config, optimizer, xs, ys, weights=None):
    """One step of the optimiser on prompts xs (B, N, d), ys (B, N); returns the (weighted) loss.

    The batch's shards, 2 to 4 at the sizes of train.py, share the cores.
    """
    loss, grads = loss_and_grads(params, config, xs, ys, weights)
    optimizer.update(params, grads)
    return loss


# ------------------------------------------------------------------------------------- optimisers

class Adam:
    """Adam: steps of about lr along the gradient's running mean over its running root mean square.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
    p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    Gradients whose norm, all together, exceeds `clip` are scaled down to it first.
    Source: Kingma, Ba 2015, arXiv 1412.6980, algorithm 1.
    """
    def __init__(self, params, lr, betas=(0.9, 0.98), eps=1e-8, clip=math.inf):
        self.lr, self.betas, self.eps, self.clip, self.t = lr, betas, eps, clip, 0
        self.state = {f"{s}.{name}": np.zeros_like(p) for name, p in params.items() for s in "mv"}
        names = list(params)
        self.jobs = [(self.adam, names[i::8]) for i in range(8)]  # what may run side by side

    def update(self, params, grads):
        """One step, in place; FloatingPointError, before it, if the gradients are not finite."""
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        self.t += 1
        shrink = min(1.0, self.clip / norm) if norm > 0 else 1.0
        list(_pool.map(lambda job: job[0](job[1], params, grads, shrink), self.jobs))

    def adam(self, names, params, grads, shrink):
        b1, b2 = self.betas
        for name in names:
            m, v, g = self.state[f"m.{name}"], self.state[f"v.{name}"], grads[name] * shrink
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            step = np.sqrt(v / (1 - b2 ** self.t))
            step += self.eps
            np.divide(m, step, out=step)
            step *= self.lr / (1 - b1 ** self.t)
            params[name] -= step


class Muon(Adam):
    """Muon for the blocks' matrices, Adam for the rest: momentum with its singular values made one.

    M = b M + g,  R = U V^T where g + b M = U S V^T,  v = c v + (1 - c) mean of R^2 over inputs,
    p -= lr sqrt(max(1, rows / columns)) N,  N = R / sqrt(v), scaled to the norm of R.
    U V^T comes from five Newton-Schulz steps X <- P X, P = a + b A + c A A, A = X X^T, which push
    every singular value to about one. As P is symmetric, the next A is P A P: the steps iterate
    that small square matrix alone, and Q, the product of their P's, multiplies X once, at the end.
    Dividing by sqrt(v) then lets every neuron, a column, take steps of one size.
    Jordan's factor has columns / rows (his matrices are transposed); no difference was seen here.
    Sources: Jordan 2024, https://kellerjordan.github.io/posts/muon/, and, for N, Li et al. 2025,
    NorMuon, arXiv 2510.05491, algorithm 1.
    """
    def __init__(self, params, lr, matrix_lr, momentum=0.9, decay=0.95, **adam):
        super().__init__(params, lr, **adam)
        self.matrix_lr, self.momentum, self.decay = matrix_lr, momentum, decay
        stacks, others = {}, []  # matrices of one shape, four layers at a time; everything else
        for name, p in params.items():
            if name.startswith("h.") and p.ndim == 2:
                self.state[f"v.{name}"] = np.zeros_like(p[:1])
                stacks.setdefault((p.shape, int(name.split(".")[1]) // 4), []).append(name)
            else:
                others.append(name)
        self.jobs = [(self.muon, names) for names in stacks.values()] + [(self.adam, others)]

    def muon(self, names, params, grads, shrink):
        x = []
        for name in names:
            m, g = self.state[f"m.{name}"], grads[name] * shrink
            m *= self.momentum
            m += g
            x.append(g + self.momentum * m)
        x = np.stack(x)  # (L, rows, columns)
        _, rows, columns = x.shape
        x = x.swapaxes(1, 2) if rows > columns else x
        x = x / (np.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
        A = x @ x.swapaxes(1, 2)  # (L, n, n), n the smaller of rows and columns
        Q = identity = np.eye(A.shape[1], dtype=x.dtype)
        for _ in range(5):
            P = 3.4445 * identity - 4.7750 * A + 2.0315 * (A @ A)
            Q, A = P @ Q, P @ A @ P
        x = Q @ x
        x = x.swapaxes(1, 2) if rows > columns else x
        for name, r in zip(names, x):
            v = self.state[f"v.{name}"]  # (1, columns)
            v += (1 - self.decay) * (np.mean(r * r, axis=0) - v)
            step = r / np.sqrt(v + 1e-12)
            step *= self.matrix_lr * math.sqrt(max(1, rows / columns)) * (
                np.linalg.norm(r) / (np.linalg.norm(step) + 1e-12))
            params[name] -= step


# ------------------------------------------------------------------------------------- checkpoints

FORMAT = 1


@contextmanager
def replacing(path, keep=None):
    """A binary file to write, which takes the place of `path` only once it is whole and on disk.

    Given `keep`, the file that was at `path` is renamed to it at that moment.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as e:  # a full disk, say, does not name the file
        raise OSError(e.errno, e.strerror, str(path)) from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class Refused(ValueError):
    """The input is at fault, not the program: the message, of one line, is all its user needs."""


def save_checkpoint(path, params, config, optimizer=None, rng=None, **extra):
    """Write everything that a run needs to go on, bit for bit, to one .npz file, atomically.

    The checkpoint that was there before stays beside it, as previous(path), in case this one comes
    to harm. extra: whatever else belongs to the run; NumPy arrays, or values that JSON can hold.
    """
    arrays = {f"params/{name}": p for name, p in params.items()}
    header = {"format": FORMAT, "config": asdict(config), "extra": {}}
    if optimizer is not None:
        arrays |= {f"optimizer/{name}": a for name, a in optimizer.state.items()}
        header["t"] = optimizer.t
    if rng is not None:
        header["rng"] = rng.bit_generator.state
    for name, value in extra.items():
        if isinstance(value, np.ndarray):
            arrays[f"extra/{name}"] = value
        else:
            header["extra"][name] = value
    whole = io.BytesIO()  # packed in memory, so that a full disk breaks into nothing but the write
    np.savez(whole, header=np.array(json.dumps(header)), **arrays)
    with replacing(path, keep=previous(path)) as file:
        file.write(whole.getbuffer())


def previous(path):
    """Where save_checkpoint keeps the checkpoint before the one at `path`."""
    return Path(path).with_suffix(".previous.npz")


def load_checkpoint(path, optimizer=None, rng=None):
    """Read a checkpoint: (params, config, extra). Restores `optimizer` and `rng` where given.

    Nothing in the file can run code: pickles are refused. Raises Refused, in one line that names
    the file, where it is damaged or not what it should be; then nothing has been restored.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}  # reads all: zip checks every byte
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']}, and this program reads {FORMAT}")
        config = Config(**header["config"])
        if len(arrays) < 12 * config.n_layer:
            raise ValueError(f"it has {len(arrays)} arrays, too few for {config.n_layer} layers")
        group = lambda kind: {name.removeprefix(kind): a for name, a in arrays.items()
                              if name.startswith(kind)}
        params = _checked(group("params/"), config.shapes())
        if optimizer is not None:
            state = _checked(group("optimizer/"),
                             {name: a.shape for name, a in optimizer.state.items()})
        if rng is not None:
            np.random.default_rng().bit_generator.state = header["rng"]  # raises if it is no state
        extra, t = header["extra"] | group("extra/"), header.get("t")
        if optimizer is not None and (type(t) is not int or t < 0):
            raise ValueError(f"its optimiser has made {t!r} steps")
    except FileNotFoundError:
        raise
    except Exception as e:  # whatever a stranger's file can cause; nothing has been changed yet
        reason = f"no {e}" if isinstance(e, KeyError) else str(e).split("\n")[0] or type(e).__name__
        raise Refused(f"{path} is not a checkpoint that can be used: {reason}") from e
    if optimizer is not None:
        optimizer.state, optimizer.t = state, t
    if rng is not None:
        rng.bit_generator.state = header["rng"]
    return params, config, extra


def _checked(arrays, shapes):
    """The arrays, in the order of `shapes`; ValueError unless names, shapes and values fit."""
    for name in shapes.keys() ^ arrays.keys():
        raise ValueError(f"array {name} is {'missing' if name in shapes else 'not expected'}")
    for name, shape in shapes.items():
        a = arrays[name]
        if a.shape != tuple(shape) or a.dtype != np.float32:
            raise ValueError(f"array {name} is {a.dtype}{a.shape}, not float32{tuple(shape)}")
        if not np.isfinite(a).all():
            raise ValueError(f"array {name} holds numbers that are not finite")
    return {name: arrays[name] for name in shapes}
