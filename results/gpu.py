"""Train one model of train.py on an NVIDIA GPU, by icl.py as it is: CuPy takes NumPy's place in it.

    python results/gpu.py sparse/mixture --seconds 540 --out runs/gpu
    python results/gpu.py sparse/mixture --measure --out runs/gpu      on the CPU, by train.measure

Initial values, prompts, curriculum, loss weights, optimiser and schedule are those of train.train.
With --steps alone so are the numbers, but for rounding. With --seconds the learning rates fall to
zero over the time, counted from the program's start; the steps come as they come.
Writes into --out/EXPERIMENT: MODEL.csv, the curve of training; MODEL.npz, a checkpoint; and the
same in files of 15 MiB, MODEL.npz.0, .1, ... (cat joins them).

A GPU wants few, large operations, and to start one from Python takes 20 microseconds, more than
most of them run. So attention and what is done row by row have kernels of their own, and all
parameters of one shape are updated as one array. Several models that train at once fill the card;
NVIDIA's MPS (nvidia-cuda-mps-control -d, before them) lets their kernels run side by side. CuPy
14.2 cannot record a step as one CUDA graph: it refuses cuBLAS there. results/paper/gpu.txt tells
what was run.
"""
import time

START = time.monotonic()

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train  # before NumPy: it holds the BLAS to one thread
import argparse
import importlib.util
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

import icl
from results import files
from results.experiments import SIZES, make_experiment

ROWS = r"""
extern "C" {

__device__ float sum(float v) {  // over the 32 threads of a warp, which share one row
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffff, v, o);
    return v;
}

#define ROW int row = blockIdx.x * blockDim.y + threadIdx.y; if (row >= rows) return; \
            size_t at = (size_t)row * C;
#define EACH for (int c = threadIdx.x; c < C; c += 32)

__global__ void layernorm(const float* x, const float* gain, const float* bias, float* y, float* n,
                          float* rstd, int rows, int C) {
    ROW
    float total = 0, squares = 0;
    EACH total += x[at + c];
    float mean = sum(total) / C;
    EACH { float d = x[at + c] - mean; squares += d * d; }
    float r = 1 / sqrtf(sum(squares) / C + 1e-5f);
    EACH { float v = (x[at + c] - mean) * r; n[at + c] = v; y[at + c] = gain[c] * v + bias[c]; }
    if (threadIdx.x == 0) rstd[row] = r;
}

__global__ void layernorm_backward(const float* dy, const float* n, const float* rstd,
                                   const float* gain, float* dx, float* dyn, int rows, int C) {
    ROW
    float a = 0, b = 0;
    EACH { float g = dy[at + c] * gain[c]; a += g; b += g * n[at + c]; }
    a = sum(a) / C;
    b = sum(b) / C;
    float r = rstd[row];
    EACH {
        float d = dy[at + c], v = n[at + c];
        dx[at + c] = r * (d * gain[c] - a - v * b);
        dyn[at + c] = d * v;
    }
}

// Attention: a block for each head of each prompt, a thread for each query. Scores are not stored:
// what the backward pass needs of them, it computes again from q, k and log(sum of exp(scores)).
#define CHANNEL _Pragma("unroll") for (int c = 0; c < D; c++)

__global__ void attention(const float* qkv, float* y, float* lse, int T, int H) {
    extern __shared__ float4 shared[];
    float *K = (float*)shared, *V = K + T * D;
    int t = threadIdx.x, row = 3 * H * D, head = blockIdx.y * H + blockIdx.x;
    const float* at = qkv + (size_t)blockIdx.y * T * row + blockIdx.x * D;
    for (int i = t; i < T * D; i += blockDim.x) {
        K[i] = at[i / D * row + H * D + i % D];
        V[i] = at[i / D * row + 2 * H * D + i % D];
    }
    __syncthreads();
    if (t >= T) return;
    float q[D], total[D], largest = -3e38f, sum = 0;
    CHANNEL { q[c] = at[t * row + c] * rsqrtf(D); total[c] = 0; }
    for (int j = 0; j <= t; j++) {
        float s = 0;
        CHANNEL s += q[c] * K[j * D + c];
        if (s > largest) {
            float scale = expf(largest - s);
            sum *= scale;
            CHANNEL total[c] *= scale;
            largest = s;
        }
        float p = expf(s - largest);
        sum += p;
        CHANNEL total[c] += p * V[j * D + c];
    }
    y += ((size_t)blockIdx.y * T + t) * H * D + blockIdx.x * D;
    CHANNEL y[c] = total[c] / sum;
    lse[head * T + t] = largest + logf(sum);
}

__global__ void attention_backward(const float* qkv, const float* y, const float* lse,
                                   const float* dy, float* dqkv, int T, int H) {
    extern __shared__ float4 shared[];
    float *Q = (float*)shared, *K = Q + T * D, *V = K + T * D, *dY = V + T * D;
    float *L = dY + T * D, *mean = L + T;
    int t = threadIdx.x, row = 3 * H * D, head = blockIdx.y * H + blockIdx.x;
    size_t in = (size_t)blockIdx.y * T * row + blockIdx.x * D;
    size_t out = (size_t)blockIdx.y * T * H * D + blockIdx.x * D;
    for (int i = t; i < T * D; i += blockDim.x) {
        const float* at = qkv + in + i / D * row + i % D;
        Q[i] = at[0] * rsqrtf(D);
        K[i] = at[H * D];
        V[i] = at[2 * H * D];
        dY[i] = dy[out + i / D * H * D + i % D];
    }
    __syncthreads();
    if (t < T) {
        float total = 0;  // of p dp over the keys: y . dy
        CHANNEL total += y[out + t * H * D + c] * dY[t * D + c];
        L[t] = lse[head * T + t];
        mean[t] = total;
    }
    __syncthreads();
    if (t >= T) return;
    float a[D], b[D], da[D], db[D];
    CHANNEL { a[c] = Q[t * D + c]; b[c] = dY[t * D + c]; da[c] = 0; }
    for (int j = 0; j <= t; j++) {  // as a query: dq = sum over keys of ds k
        float s = 0, dp = 0;
        CHANNEL { s += a[c] * K[j * D + c]; dp += b[c] * V[j * D + c]; }
        float ds = expf(s - L[t]) * (dp - mean[t]);
        CHANNEL da[c] += ds * K[j * D + c];
    }
    float* to = dqkv + in + t * row;
    CHANNEL to[c] = da[c] * rsqrtf(D);
    CHANNEL { a[c] = K[t * D + c]; b[c] = V[t * D + c]; da[c] = db[c] = 0; }
    for (int j = t / 32 * 32; j < T; j++) {  // as a key: dk, dv = sums over queries of ds q, p dy
        float s = 0, dp = 0;
        if (j < t) continue;
        CHANNEL { s += a[c] * Q[j * D + c]; dp += b[c] * dY[j * D + c]; }
        float p = expf(s - L[j]), ds = p * (dp - mean[j]);
        CHANNEL { da[c] += ds * Q[j * D + c]; db[c] += p * dY[j * D + c]; }
    }
    CHANNEL { to[H * D + c] = da[c]; to[2 * H * D + c] = db[c]; }
}

__global__ void column_sums(const float* x, float* y, int rows, int C, int part) {
    int c = blockIdx.x * 32 + threadIdx.x;  // block y sums its part of the rows, 8 at a time
    int end = min(rows, (blockIdx.y + 1) * part);
    float total = 0;
    if (c < C)
        for (int r = blockIdx.y * part + threadIdx.y; r < end; r += 8)
            total += x[(size_t)r * C + c];
    __shared__ float totals[8][32];
    totals[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || c >= C) return;
    for (int i = 1; i < 8; i++) total += totals[i][threadIdx.x];
    y[(size_t)blockIdx.y * C + c] = total;
}

}
"""


def icl_on(xp, head_dims):
    """A second copy of the module icl that computes with xp, NumPy or CuPy, a batch in one part."""
    spec = importlib.util.spec_from_file_location("icl_on_gpu", icl.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.np = SimpleNamespace(**vars(xp))
    module.chunks = lambda *arrays: [arrays]  # the whole batch
    if hasattr(xp, "RawModule"):
        module.gelu = gelu(xp)
        module.column_sums, module.layernorm, module.attention = by_rows(xp, head_dims)
    return module


def gelu(xp):
    """icl.gelu as two kernels, not 16."""
    a, b = math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)
    forward = xp.ElementwiseKernel("T x", "T p, T y", f"""
        p = (T(1) + tanh(x * (T({a}) + T({b}) * x * x))) / T(2);
        y = x * p""", "gelu")
    backward = xp.ElementwiseKernel("T x, T p, T dy", "T dx", f"""
        dx = dy * (p + x * p * (T(1) - p) * (T({2 * a}) + T({6 * b}) * x * x))""", "gelu_backward")

    def gelu(x):
        p, y = forward(x)
        return y, lambda dy: backward(x, p, dy)

    return gelu


def by_rows(xp, D):
    """icl's column_sums, layernorm and attention with the kernels above; D channels a head."""
    kernels = xp.RawModule(code=ROWS, options=(f"-DD={D}",))

    def column_sums(x, part=128):
        """In two stages: all processors at work, where x has many rows and few columns."""
        x = xp.ascontiguousarray(x)
        rows, C = x.shape
        y = xp.empty((-(-rows // part), C), x.dtype)
        start("column_sums", (-(-C // 32), len(y)), (32, 8), (x, y), rows, C, part)
        return y[0] if len(y) == 1 else column_sums(y, len(y))

    def start(name, grid, block, arrays, *sizes, floats=0):
        """Start a kernel; its blocks share memory for so many floats."""
        assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays)
        kernels.get_function(name)(grid, block, (*arrays, *map(np.int32, sizes)),
                                   shared_mem=4 * floats)

    def rowwise(name, *arrays):
        rows, C = arrays[0].shape
        start(name, (-(-rows // 8),), (32, 8), arrays, rows, C)

    def layernorm(x, gain, bias):
        x = xp.ascontiguousarray(x)
        y, n, rstd = xp.empty_like(x), xp.empty_like(x), xp.empty(len(x), x.dtype)
        rowwise("layernorm", x, gain, bias, y, n, rstd)

        def backward(dy):
            dy = xp.ascontiguousarray(dy)
            dx, dyn = xp.empty_like(x), xp.empty_like(x)
            rowwise("layernorm_backward", dy, n, rstd, gain, dx, dyn)
            return dx, column_sums(dyn), column_sums(dy)

        return y, backward

    def attention(qkv, n_head):
        B, T, C3 = qkv.shape
        y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), qkv.dtype)
        grid, block = (n_head, B), (-(-T // 32) * 32,)
        start("attention", grid, block, (qkv, y, lse), T, n_head, floats=2 * T * D)

        def backward(dy):
            dqkv = xp.empty_like(qkv)
            start("attention_backward", grid, block, (qkv, y, lse, dy, dqkv), T, n_head,
                  floats=(4 * D + 2) * T)
            return dqkv

        return y, backward

    return column_sums, layernorm, attention


class Muon:
    """icl.Muon with the matrices of one shape in one array, all of Adam's parameters in another.

    Nothing of a step waits for a number from the GPU. `params` holds views of these arrays.
    """
    def __init__(self, xp, params):
        self.xp, self.p = xp, {}
        groups = {}
        for name, p in params.items():
            matrix = name.startswith("h.") and p.ndim == 2
            groups.setdefault(p.shape if matrix else "adam", []).append(name)
        for key, names in groups.items():
            self.p[key] = xp.concatenate([params[name].ravel() for name in names])
            if key != "adam":
                self.p[key] = self.p[key].reshape(len(names), *key)
        self.g = {key: xp.zeros_like(p) for key, p in self.p.items()}
        self.m = {key: xp.zeros_like(p) for key, p in self.p.items()}
        self.v = xp.zeros_like(self.p["adam"])
        self.params = self.named(self.p, groups, params)
        self.grads = self.named(self.g, groups, params)
        self.steps = 0

    def named(self, arrays, groups, like):
        """Name -> view of the arrays of `groups`, with the shapes of `like`."""
        views = {}
        for key, names in groups.items():
            flat, start = arrays[key].reshape(-1), 0
            for name in names:
                views[name] = flat[start:start + like[name].size].reshape(like[name].shape)
                start += like[name].size
        return views

    def update(self, grads, lr, matrix_lr, b1=0.9, b2=0.98, momentum=0.9):
        xp, self.steps = self.xp, self.steps + 1
        for name, grad in grads.items():
            self.grads[name][...] = grad
        norm = xp.sqrt(sum((g * g).sum() for g in self.g.values()))
        scale = xp.minimum(1 / xp.maximum(norm, 1e-30), 1)  # clip = 1
        for key, p in self.p.items():
            m, g = self.m[key], self.g[key] * scale
            if key == "adam":
                m += (1 - b1) * (g - m)
                self.v += (1 - b2) * (g * g - self.v)
                p -= (lr / (1 - b1**self.steps) * m
                      / (xp.sqrt(self.v / (1 - b2**self.steps)) + 1e-8))
            else:
                m *= momentum
                m += g
                p -= matrix_lr * orthogonalise(xp, g + momentum * m)


def orthogonalise(xp, x):
    """icl.orthogonalise of each matrix of a stack (L, I, O)."""
    if x.shape[1] > x.shape[2]:
        return orthogonalise(xp, x.swapaxes(1, 2)).swapaxes(1, 2)
    x = x / (xp.sqrt((x * x).sum((1, 2), keepdims=True)) + 1e-7)
    one = xp.eye(x.shape[1], dtype=x.dtype)
    A, product = x @ x.swapaxes(1, 2), None
    for _ in range(5):
        P = 3.4445 * one - 4.7750 * A + 2.0315 * (A @ A)
        product, A = P if product is None else P @ product, P @ A @ P
    return product @ x


def model_of(a):
    """The entry of the model that the arguments name, at their size."""
    experiment = a.name.split("/")[0]
    fields = "batch", "curriculum", "first_dims", "n_layer", "n_head", "n_embd", "prompts"
    given = {field: value for field in fields if (value := getattr(a, field)) is not None}
    size = replace(SIZES[a.size], **given)
    size = replace(size, lr=size.lr * a.rates, matrix_lr=size.matrix_lr * a.rates)
    e = make_experiment(experiment, size, a.seed)
    models = {p.label: p for p in files.entries_of(e, a.out) if p.steps}
    if a.name not in models:
        raise icl.Refused(f"there is no model {a.name!r}, but {', '.join(models)}")
    return replace(models[a.name], steps=a.steps or sys.maxsize)


def learn(a):
    """Train a model, and save it."""
    try:
        xp = importlib.import_module(a.backend)
    except ImportError as error:
        raise OSError(f"{error}; it needs CuPy and an NVIDIA GPU") from error
    model = model_of(a)
    host = getattr(xp, "asnumpy", np.asarray)
    e, size = model.experiment, model.experiment.size
    gpu = icl_on(xp, size.n_embd // size.n_head)
    initial = icl.init_params(e.config, e.stream(model.name, 0))
    if a.start:
        initial, config, _ = icl.load_checkpoint(a.start)
        if config != e.config:
            raise icl.Refused(f"{a.start} has a model of {config}, not {e.config}")
    optimizer = Muon(xp, {name: xp.asarray(p) for name, p in initial.items()})
    params, rng = optimizer.params, e.stream(model.name, "training prompts", *a.part)
    history, shown, done = xp.zeros(1 << 20, np.float32), (0, START), 0
    model.path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        now = time.monotonic()
        progress = max(done / model.steps, (now - START) / (a.seconds or math.inf))
        if now > shown[1] + 10 or progress >= 1:
            recent = host(history[max(0, done - 50):max(1, done)]).mean()
            print(f"{a.name}: {now - START:.0f} s, {done} steps of {size.batch} prompts, loss "
                  f"{recent:.4f}, {1000 * (now - shown[1]) / max(1, done - shown[0]):.1f} ms a "
                  "step", flush=True)
            shown = done, now
            if done and not math.isfinite(recent):
                raise icl.Refused(f"{a.name} diverged")
        if progress >= 1:
            break
        fade = min(1, (done + 1) / size.warmup) * (1 - progress)
        xs, ys, weights = map(xp.asarray, train.training_batch(model, progress, rng))
        predictions, backward = gpu.transformer(params, e.config, xs, ys)
        error = predictions - ys
        history[done] = (weights * error * error).sum() / ys.size
        optimizer.update(backward(weights * error * (2 / ys.size)), size.lr * fade,
                         size.matrix_lr * fade)
        done += 1
    save(replace(model, steps=done), {name: host(p) for name, p in params.items()},
         host(history[:done]), now - START)


def save(model, params, losses, seconds):
    """Write the curve, as files.save_model does, and the checkpoint, whole and in parts."""
    files.write_curve(model.path.with_suffix(".csv"), losses, train.optimum_losses(model))
    icl.save_checkpoint(model.path, params, model.experiment.config, step=model.steps,
                        seconds=seconds, settings=model.settings)
    data, part = model.path.read_bytes(), 15 << 20
    for i in range(0, len(data), part):
        Path(f"{model.path}.{i // part}").write_bytes(data[i:i + part])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("name", help="such as sparse/mixture")
    add("--size", choices=SIZES, default="paper")
    add("--steps", type=int)
    add("--seconds", type=float, help="from the program's start to the end of training")
    add("--batch", type=int, help="prompts a step (default: the size's)")
    add("--prompts", type=int, help="to measure on (default: the size's)")
    add("--curriculum", type=float)
    add("--first-dims", type=int)
    add("--n-layer", type=int)
    add("--n-head", type=int)
    add("--n-embd", type=int)
    add("--rates", type=float, default=1.0, help="times the size's learning rates")
    add("--part", nargs="*", default=[], help="names another stream of prompts")
    add("--start", type=Path, help="a checkpoint to go on from")
    add("--seed", type=int, default=0)
    add("--measure", action="store_true", help="write the trained model's predictions file")
    add("--backend", default="cupy", help="cupy, numpy or strict")
    add("--out", type=Path, required=True)
    a = parser.parse_args()
    if not a.measure and not max(a.steps or 0, a.seconds or 0) > 0:
        parser.error("say when to end, by --steps or --seconds")
    try:
        if a.measure:
            model = model_of(a)
            steps = icl.load_checkpoint(model.path)[2].get("step", 1)
            train.measure_job(replace(model, steps=steps), print)
        else:
            learn(a)
    except (ValueError, OSError) as error:
        parser.exit(2, f"gpu.py: error: {error}\n")
