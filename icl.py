"""A GPT-2-style transformer for in-context learning, from scratch in NumPy.

A prompt x_1, f(x_1), x_2, f(x_2), ..., x_N is a sequence of vectors. The transformer reads it from
left to right. At every x_k it predicts f(x_k), and it has seen the examples 1..k-1 only.

An operation returns its output and a function: y, backward = layernorm(x, gain, bias). With dy the
gradient of the loss with respect to y, backward(dy) returns the gradients of the arguments, in
their order: here dx, dgain, dbias. GELU and attention take one array: theirs returns one gradient.

Shapes: B prompts, N points, T = 2N - 1 tokens, C channels, H heads, D = C / H, d dims; M rows, a
row a token.
"""
import io
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Config:
    """Shape of a model; layers, heads and channels are the paper's by default. ValueError unless
    all are positive integers and n_embd a multiple of n_head."""
    n_dims: int    # d, of the inputs x
    n_points: int  # N, of the longest prompt
    n_layer: int = 12
    n_head: int = 8
    n_embd: int = 256  # channels C

    def __post_init__(self):
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                kind = type(value).__name__
                raise ValueError(f"{name} must be a positive int, not the {kind} {value}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")

    def shapes(self):
        """Name -> shape of each parameter: GPT-2's names, and Garg et al.'s read_in, read_out."""
        C = self.n_embd
        layers = {"read_in": (self.n_dims, C), "ln_f": (C,), "read_out": (C, 1)}
        for i in range(self.n_layer):
            layers |= {f"h.{i}.ln_1": (C,), f"h.{i}.attn.c_attn": (C, 3 * C),
                       f"h.{i}.attn.c_proj": (C, C), f"h.{i}.ln_2": (C,),
                       f"h.{i}.mlp.c_fc": (C, 4 * C), f"h.{i}.mlp.c_proj": (4 * C, C)}
        shapes = {"wpe.weight": (2 * self.n_points, C)}  # as Garg et al.; the last row is unused
        for name, shape in layers.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
        return shapes


# ------------------------------------------------------------------------------------- operations

def linear(x, weight, bias):
    """y = x W + b for rows x (M, I), weight (I, O), bias (O,).

    dx = dy W^T,  dW = x^T dy,  db = sum over rows of dy.
    """
    y = x @ weight  # (M, O)
    y += bias
    return y, lambda dy: (dy @ weight.T, x.T @ dy, column_sums(dy))


def column_sums(x):
    """x.sum(0), by the BLAS: 4 times as fast, which saves 4% of a step."""
    return np.ones(len(x), x.dtype) @ x


def row_means(x):
    """x.mean(1, keepdims=True), by the BLAS."""
    return (x @ np.full(x.shape[1], 1 / x.shape[1], x.dtype))[:, None]


def layernorm(x, gain, bias, eps=1e-5):
    """y = gain * n + bias with n = (x - mean) / sqrt(var + eps), over the channels of each row.

    x (M, C), gain (C,), bias (C,). With g = gain * dy:
    dx = (g - mean(g) - n mean(g n)) / sqrt(var + eps).
    Source: Ba, Kiros, Hinton 2016, arXiv 1607.06450, section 3.
    """
    centred = x - row_means(x)  # (M, C)
    rstd = 1 / np.sqrt(row_means(centred**2) + eps)  # (M, 1)
    n = centred * rstd

    def backward(dy):
        g = dy * gain
        dx = rstd * (g - row_means(g) - n * row_means(g * n))
        return dx, column_sums(dy * n), column_sums(dy)

    return gain * n + bias, backward


@np.errstate(over="ignore")  # at x far below 0, exp is inf and p is 0, which is right
def gelu(x):
    """y = x p, p = 1 / (1 + exp(-v)), v = x (a + b x^2), a = sqrt(8/pi), b = 0.044715 a.

    As dp/dv = p (1 - p):  dy/dx = p + y (1 - p) (a + 3 b x^2). This is GPT-2's GELU: it writes p as
    (1 + tanh(v / 2)) / 2. Source: Hendrycks, Gimpel 2016, arXiv 1606.08415, section 2.
    """
    a, b = math.sqrt(8 / math.pi), 0.044715 * math.sqrt(8 / math.pi)
    v = x * (a + b * (x * x))
    p = 1 / (1 + np.exp(-v))
    y = x * p
    return y, lambda dy: dy * (p + y * (1 - p) * (a + 3 * b * (x * x)))


def attention(qkv, n_head):
    """Causal multi-head attention: qkv (B, T, 3C) -> y (B, T, C), heads side by side.

    Each head: y = p v, where p is the softmax, over the keys, of the scores s = q k^T / sqrt(D).
    Rows of s and p are queries, columns keys; a query sees the keys up to its own place. Backward:
    dv = p^T dy,  dp = dy v^T,  ds = p (dp - sum over keys of p dp), where the sum is y . dy, as
    y = p v;  dq = ds k / sqrt(D),  dk = ds^T q / sqrt(D).
    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
    """
    B, T = qkv.shape[:2]

    def split(a):  # (B, T, C) -> (B, H, T, D)
        return a.reshape(B, T, n_head, -1).swapaxes(1, 2)

    def merge(a):  # and back
        return a.swapaxes(1, 2).reshape(B, T, -1)

    q, k, v = (split(a) for a in np.split(qkv, 3, axis=2))
    scale = q.shape[3] ** -0.5
    q = scale * q
    s = q @ k.swapaxes(2, 3)  # (B, H, queries, keys)
    s += np.triu(np.full((T, T), -np.inf, qkv.dtype), 1)  # forbids keys after the query
    s -= s.max(axis=3, keepdims=True)
    p = np.exp(s, out=s)  # in the memory of s, which is large
    p /= (p.reshape(-1, T) @ np.ones(T, p.dtype)).reshape(B, n_head, T, 1)  # p.sum(3), by the BLAS
    y = p @ v  # (B, H, T, D)

    def backward(dy):
        dy = split(dy)
        dp = dy @ v.swapaxes(2, 3)  # (B, H, queries, keys)
        ds = p * (dp - np.einsum("bhtd,bhtd->bht", y, dy)[..., None])
        dq = ds @ (scale * k)
        dk = ds.swapaxes(2, 3) @ q  # q is scaled already
        dv = p.swapaxes(2, 3) @ dy
        return np.concatenate([merge(dq), merge(dk), merge(dv)], axis=2)  # (B, T, 3C)

    return merge(y), backward


# ------------------------------------------------------------------------------------- the model
# The backward of a layer or block, backward(dy, grads), returns dx, and puts the gradients of its
# parameters into grads. That of the transformer returns grads.

def init_params(config, rng):
    """Fresh parameters: a dict of named float32 arrays, with config.shapes() for names and shapes.

    Weights are normal with standard deviation 1/sqrt(fan-in), divided by sqrt(2 n_layer) in c_proj,
    where a block's branches end; positions have 0.5. Gains start at one, biases at zero. Weights of
    keys start at correlation -0.5 with those of queries: so a token's score with itself is negative
    at first, and it looks at others.
    """
    params = {}
    for name, shape in config.shapes().items():
        if name.endswith("bias"):
            params[name] = np.zeros(shape, np.float32)
        elif len(shape) == 1:  # the gain of a layer norm
            params[name] = np.ones(shape, np.float32)
        else:
            std = 0.5 if name == "wpe.weight" else shape[0] ** -0.5
            if name.endswith("c_proj.weight"):
                std /= math.sqrt(2 * config.n_layer)
            params[name] = (std * rng.standard_normal(shape)).astype(np.float32)
        if name.endswith("c_attn.weight"):
            query, key, _ = np.split(params[name], 3, axis=1)  # views
            key[:] = math.sqrt(0.75) * key - 0.5 * query  # 0.75 + 0.25 = 1: its variance stays
    return params


def interleave(xs, ys):
    """The prompt as tokens x_1, (y_1, 0, ..., 0), x_2, ..., x_N; no token holds the last y.

    xs (B, N, d), ys (B, N) -> (B, 2N - 1, d). Source: Garg et al. 2022, arXiv 2208.01066.
    """
    tokens = np.zeros((len(xs), 2 * xs.shape[1], xs.shape[2]), xs.dtype)
    tokens[:, ::2], tokens[:, 1::2, 0] = xs, ys
    return tokens[:, :-1]


def layer(op, x, params, name):
    """linear or layernorm on each token: x (B, T, I) -> y (B, T, O). Parameters are found by name,
    and backward leaves their gradients in `grads`."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    rows, op_backward = op(x.reshape(-1, x.shape[2]), params[weight], params[bias])  # (M, O)

    def backward(dy, grads):
        dx, grads[weight], grads[bias] = op_backward(dy.reshape(rows.shape))
        return dx.reshape(x.shape)

    return rows.reshape(*x.shape[:2], -1), backward


def block(x, params, name, config, stride=1):
    """One pre-norm transformer block: h = x + attention(layernorm(x)), y = h + mlp(layernorm(h)).

    x (B, T, C) -> y (B, T, C). Nothing is read out at the y tokens. So in the last block a
    stride of 2 lets only the x tokens go on after attention, y (B, N, C): a third less work.
    """
    n1, ln_1_backward = layer(layernorm, x, params, f"{name}.ln_1")  # (B, T, C)
    qkv, c_attn_backward = layer(linear, n1, params, f"{name}.attn.c_attn")  # (B, T, 3C)
    heads, attention_backward = attention(qkv, config.n_head)  # (B, T, C)
    attn, attn_c_proj_backward = layer(linear, heads, params, f"{name}.attn.c_proj")
    h = (x + attn)[:, ::stride]  # the tokens that go on: T' = T, or N if stride is 2; (B, T', C)
    n2, ln_2_backward = layer(layernorm, h, params, f"{name}.ln_2")
    fc, c_fc_backward = layer(linear, n2, params, f"{name}.mlp.c_fc")  # (B, T', 4C)
    act, gelu_backward = gelu(fc)
    mlp, mlp_c_proj_backward = layer(linear, act, params, f"{name}.mlp.c_proj")  # (B, T', C)

    def backward(dy, grads):
        dact = mlp_c_proj_backward(dy, grads)
        dfc = gelu_backward(dact)
        dn2 = c_fc_backward(dfc, grads)
        dh = dy + ln_2_backward(dn2, grads)
        dh_all = np.zeros_like(x)  # (B, T, C), zero at tokens that did not go on
        dh_all[:, ::stride] = dh
        dheads = attn_c_proj_backward(dh_all, grads)
        dqkv = attention_backward(dheads)
        dn1 = c_attn_backward(dqkv, grads)
        return dh_all + ln_1_backward(dn1, grads)

    return h + mlp, backward


def transformer(params, config, xs, ys):
    """Predictions (B, N) at the x tokens; their backward(dpredictions) -> dict of gradients."""
    tokens = interleave(xs, ys)  # (B, T, d)
    T = tokens.shape[1]
    x, read_in_backward = layer(linear, tokens, params, "read_in")  # (B, T, C)
    x = x + params["wpe.weight"][:T]
    block_backwards = []
    for i in range(config.n_layer):
        stride = 2 if i == config.n_layer - 1 else 1
        x, block_backward = block(x, params, f"h.{i}", config, stride)
        block_backwards.append(block_backward)
    n, ln_f_backward = layer(layernorm, x, params, "ln_f")  # (B, N, C)
    predictions, read_out_backward = layer(linear, n, params, "read_out")  # (B, N, 1)

    def backward(dpredictions):
        grads = {}
        dn = read_out_backward(dpredictions[..., None], grads)
        dx = ln_f_backward(dn, grads)
        for block_backward in reversed(block_backwards):
            dx = block_backward(dx, grads)
        grads["wpe.weight"] = np.pad(dx.sum(0), ((0, 2 * config.n_points - T), (0, 0)))
        read_in_backward(dx, grads)
        return grads

    return predictions[..., 0], backward


# ------------------------------------------------------------------------ predictions, and checks

def check_array(name, a, shape=None, types=(np.float32, np.float64)):
    """ValueError, by name, unless it is a finite array of one of the types and, if given, shape."""
    if type(a) is not np.ndarray or a.dtype not in types or shape not in (None, a.shape):
        wanted = " or ".join(t.__name__ for t in types)
        size = "" if shape is None else f" {shape}"
        got = f"{type(a).__name__} {getattr(a, 'dtype', '')} {getattr(a, 'shape', '')}".strip()
        raise ValueError(f"{name} must be a {wanted} array{size}, not {got}")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} must be finite, and holds {a[~np.isfinite(a)][0]}")


def check_params(params, config):
    """ValueError, by name, unless the parameters have the config's names and shapes."""
    got, wanted = {name: np.shape(p) for name, p in params.items()}, config.shapes()
    for name in got | wanted:
        if got.get(name) != wanted.get(name):
            raise ValueError(f"parameter {name} has shape {got.get(name)}, and "
                             f"{wanted.get(name)} in {config}")


def check_prompts(xs, ys, n_dims=None, n_points=math.inf):
    """ValueError, saying what is wrong, unless xs (B, N, d) and ys (B, N) can be prompts."""
    check_array("xs", xs)
    check_array("ys", ys)
    if (xs.ndim != 3 or ys.shape != xs.shape[:2] or xs.size == 0
            or n_dims not in (None, xs.shape[2]) or xs.shape[1] > n_points):
        limit = "" if n_points == math.inf else f", N at most {n_points}"
        raise ValueError(f"xs must be (B, N, {n_dims or 'd'}) and ys (B, N){limit}, "
                         f"nothing empty, not {xs.shape} and {ys.shape}")


def keep_freed_memory():
    """Make an array of 31 MiB, freed at once: from then on, glibc keeps freed blocks up to that
    size for reuse. A step is 10% faster."""
    np.empty(31 << 20, np.uint8)


def chunks(xs, *others):
    """The batch in parts of about 500 tokens: what a part computes stays in the cache."""
    keep_freed_memory()
    n = min(len(xs), math.ceil(len(xs) * (2 * xs.shape[1] - 1) / 500))
    return zip(*(np.array_split(a, n) for a in (xs, *others)))


def predict(params, config, xs, ys):
    """Predictions (B, N) of f(x_k), from x_k and examples 1..k-1. ValueError as check_prompts and
    check_params."""
    check_params(params, config)
    check_prompts(xs, ys, config.n_dims, config.n_points)
    return np.concatenate([transformer(params, config, *chunk)[0] for chunk in chunks(xs, ys)])


# --------------------------------------------------------------------------------------- training

def loss_and_grads(params, config, xs, ys, weights=None):
    """The mean of weights * (prediction - y)^2, and its gradients under the parameters' names.
    weights (B, N), all 1 if not given. ValueError as in predict."""
    check_params(params, config)
    check_prompts(xs, ys, config.n_dims, config.n_points)
    weights = np.ones_like(ys) if weights is None else weights
    check_array("weights", weights, ys.shape)
    loss, grads = 0.0, {name: np.zeros_like(p) for name, p in params.items()}
    for xs_part, ys_part, weights_part in chunks(xs, ys, weights):
        predictions, backward = transformer(params, config, xs_part, ys_part)
        error = predictions - ys_part
        loss += float(np.sum(weights_part * error**2)) / ys.size
        dpredictions = weights_part * error * (2 / ys.size)
        for name, grad in backward(dpredictions).items():
            grads[name] += grad
    return loss, grads


def loss_weights(xs, ys):
    """Weights (B, N) for the loss: 1 / a forecast of f(x_k)^2, from x_k and the earlier y's.

    w_k = 1 / (v_k q_k),  v_k = (1 + sum_{i<k} y_i^2) / k,  q_k = (1 + |x_k|^2) / (1 + d).
    v_k is the mean of f^2 so far; q_k says how large x_k is, beside the usual |x|^2 = d. Without
    weights, the few prompts of large values dominate the gradient. As w_k sees nothing of y_k or
    later, the posterior mean still has the least loss. ValueError as check_prompts.
    """
    check_prompts(xs, ys)
    before = np.zeros_like(ys)  # sum_{i<k} y_i^2
    before[:, 1:] = np.cumsum(ys[:, :-1] ** 2, axis=1)
    v = (1 + before) / np.arange(1, ys.shape[1] + 1, dtype=ys.dtype)
    return (1 + xs.shape[2]) / (v * (1 + np.sum(xs * xs, axis=2)))


def train_step(params, config, optimizer, xs, ys, weights=None):
    """One step of the optimiser on prompts xs (B, N, d), ys (B, N); returns the (weighted) loss.
    FloatingPointError if that or the gradient is not finite; then nothing was changed."""
    loss, grads = loss_and_grads(params, config, xs, ys, weights)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    optimizer.update(params, grads)
    return loss


class Adam:
    """Adam: m += (1 - b1) (g - m),  v += (1 - b2) (g^2 - v),
    p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).
    Gradients whose norm, all together, exceeds `clip` are scaled down to it first.
    Source: Kingma, Ba 2015, arXiv 1412.6980, algorithm 1.
    """
    def __init__(self, params, lr, betas=(0.9, 0.98), eps=1e-8, clip=math.inf):
        self.lr, self.betas, self.eps, self.clip = lr, betas, eps, clip
        self.names = list(params)
        self.state = {f"{s}.{name}": np.zeros_like(p) for name, p in params.items() for s in "mv"}
        self.state["t"] = np.zeros((), np.float32)  # steps so far; checkpoints hold float32

    def update(self, params, grads):
        """One step, in place. Before anything is changed, raises ValueError if a parameter or
        gradient is missing or of another kind, FloatingPointError if their norm is not finite."""
        for name in self.names:
            shape = self.state[f"m.{name}"].shape
            for a in (params.get(name), grads.get(name)):
                if not isinstance(a, np.ndarray) or a.shape != shape or a.dtype.kind != "f":
                    raise ValueError(f"{name} and its gradient must be arrays of floats {shape}")
            if not params[name].flags.writeable:
                raise ValueError(f"{name} is read-only")
        norm = math.sqrt(sum(float(np.vdot(grads[name], grads[name])) for name in self.names))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        scale = min(1.0, self.clip / max(norm, 1e-30))
        self.state["t"] += 1
        for name in self.names:
            self.step(name, params[name], grads[name] * scale)

    def step(self, name, p, g):
        """One parameter's step, in place, with its clipped gradient."""
        m, v = self.state[f"m.{name}"], self.state[f"v.{name}"]
        t, (b1, b2) = int(self.state["t"]), self.betas
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        p -= self.lr / (1 - b1**t) * m / (np.sqrt(v / (1 - b2**t)) + self.eps)


class Muon(Adam):
    """Muon for the blocks' matrices, Adam for the rest.

    m = b m + g, where b is the momentum; then p -= matrix_lr U S' V^T, where g + b m = U S V^T (as
    Nesterov's momentum) and S' is near one: a step is about as large in every direction. Jordan
    also scales it by the matrix's shape; we do not.
    Source: Jordan 2024, https://kellerjordan.github.io/posts/muon/
    """
    def __init__(self, params, lr, matrix_lr, momentum=0.9, **adam):
        super().__init__(params, lr, **adam)
        self.matrix_lr, self.momentum = matrix_lr, momentum
        self.matrices = [n for n, p in params.items() if n.startswith("h.") and p.ndim == 2]
        for name in self.matrices:
            del self.state[f"v.{name}"]  # Muon has no v

    def step(self, name, p, g):
        if name not in self.matrices:
            return super().step(name, p, g)
        m = self.state[f"m.{name}"]
        m *= self.momentum
        m += g
        p -= self.matrix_lr * orthogonalise(g + self.momentum * m)


def orthogonalise(x):
    """A matrix X = U S V^T with its singular values, the diagonal of S, brought to 0.7 to 1.2 (but
    for those far below the largest).

    Five Newton-Schulz steps X' = P X with P = a I + b A + c A A, A = X X^T; a, b, c are Jordan's.
    A and P are square, as wide as X's shorter side, and P is symmetric: A' = X' X'^T = P A P. So we
    follow A, multiply the five P's, and X only once, with their product. That pays where X is
    oblong, as most are.
    """
    if x.shape[0] > x.shape[1]:
        return orthogonalise(x.T).T
    x = x / (np.linalg.norm(x) + 1e-7)
    identity = np.eye(len(x), dtype=x.dtype)
    A = x @ x.T
    product = identity
    for _ in range(5):
        P = 3.4445 * identity - 4.7750 * A + 2.0315 * (A @ A)
        product, A = P @ product, P @ A @ P
    return product @ x


# ------------------------------------------------------------------------------------ checkpoints

class Refused(ValueError):
    """The user's input is at fault, not the program: show the message, one line, no traceback."""
    def __str__(self):  # a path may hold line breaks
        return " ".join(super().__str__().splitlines())


def write_whole(path, data):
    """Write bytes to a file, whole or not at all: they replace it once they are on the disk."""
    temporary = Path(f"{path}.{os.urandom(8).hex()}.tmp")
    if os.path.exists(path) and not os.path.isfile(path):  # /dev/null, say, must stay what it is
        raise OSError(f"{path} is not a regular file")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:  # a full disk, say, does not name the file
        raise OSError(e.errno, e.strerror or e, str(path)) from e
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, params, config, optimizer=None, **extra):
    """Write a run's parameters, its optimiser's state and `extra`, which JSON can hold.
    ValueError, and nothing is written, unless the parameters are the config's and all is finite."""
    check_params(params, config)
    arrays = {f"params/{name}": p for name, p in params.items()}
    if optimizer:
        arrays |= {f"optimizer/{name}": a for name, a in optimizer.state.items()}
    for name, a in arrays.items():
        check_array(name, a, types=[np.float32])
    header = json.dumps({"format": 1, "config": asdict(config), "extra": extra}, allow_nan=False,
                        default=lambda a: a.tolist())  # for NumPy's numbers and arrays
    packed = io.BytesIO()
    np.savez(packed, header=np.array(header), **arrays)
    write_whole(path, packed.getvalue())


def load_checkpoint(path, optimizer=None):
    """Read a checkpoint: (params, config, extra). Restores the optimiser's state, if one is given.

    Nothing in the file can run code. Raises Refused, which names the file, and restores nothing
    where it is not what it should be; FileNotFoundError if there is none.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise Refused(f"{path} is not a regular file")  # a pipe would be waited for
    data = Path(path).read_bytes()
    state = optimizer.state if optimizer else {}
    try:
        if data[:4] != b"PK\x03\x04":  # else NumPy's message would advise to allow pickle
            raise ValueError("it is no .npz file")
        npz = np.load(io.BytesIO(data), allow_pickle=False)
        if sum(member.file_size for member in npz.zip.infolist()) > len(data):
            raise ValueError("it unpacks to more than it weighs")  # as a zip bomb does
        header = json.loads(str(npz["header"]))
        config, extra = Config(**header["config"]), header["extra"]
        too_deep = config.n_layer > len(npz.files)  # a billion layers would fill the memory
        if header["format"] != 1 or type(extra) is not dict or too_deep:
            raise ValueError("its header is not this program's")
        shapes = {f"params/{name}": shape for name, shape in config.shapes().items()}
        shapes |= {f"optimizer/{name}": a.shape for name, a in state.items()}
        arrays = {name: npz[name] for name in shapes}  # reads these alone; zip checks their CRCs
        for name, shape in shapes.items():
            check_array(name, arrays[name], shape, [np.float32])
    except Exception as e:  # whatever a stranger's file can cause
        raise Refused(f"{path} is not a checkpoint that can be used: {str(e) or repr(e)}") from e
    if optimizer:
        optimizer.state.update({name: arrays[f"optimizer/{name}"] for name in state})
    return {name: arrays[f"params/{name}"] for name in config.shapes()}, config, extra
