"""Train one model of train.py on an NVIDIA GPU, by icl.py as it is: CuPy takes NumPy's place in it.

    python results/gpu.py sparse/mixture --seconds 540 --out runs/gpu
    python results/gpu.py sparse/mixture --measure --out runs/gpu      on the CPU, by train.measure

Initial values, prompts, curriculum, loss weights, optimiser and schedule are those of train.train.
With --steps alone so are the numbers, but for rounding. With --seconds the learning rates fall to
zero over the time, counted from the program's start; the steps come as they come.
Writes into --out/EXPERIMENT: MODEL.csv, the curve of training; MODEL.npz, a checkpoint; and the
same in files of 15 MiB, MODEL.npz.0, .1, ... (cat joins them).

A GPU wants few, large operations, and to start one from Python takes 20 microseconds. So what is
done row by row has kernels of its own, all parameters of one shape are updated as one array, and
a whole step is recorded once (a CUDA graph) and then started as one. An H200 has run all of this
but the recording: --no-graph is as it was then (results/paper/gpu.txt).
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

ROWS = r"""
extern "C" {

__device__ float sum(float v) {  // over the 32 threads of a warp, which share one row
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffff, v, o);
    return v;
}

__device__ float largest(float v) {
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffff, v, o));
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

__global__ void softmax(float* s, int rows, int C) {  // in place; a row is a query, C its keys
    ROW
    int query = row % C;
    float m = -3e38f, total = 0;
    EACH if (c <= query) m = fmaxf(m, s[at + c]);
    m = largest(m);
    EACH { float e = c <= query ? expf(s[at + c] - m) : 0; s[at + c] = e; total += e; }
    total = sum(total);
    EACH s[at + c] /= total;
}

__global__ void softmax_backward(const float* p, float* dp, int rows, int C) {  // in place
    ROW
    float total = 0;
    EACH total += p[at + c] * dp[at + c];
    total = sum(total);
    EACH dp[at + c] = p[at + c] * (dp[at + c] - total);
}

}
"""


def icl_on(xp):
    """A second copy of the module icl that computes with xp, NumPy or CuPy, a batch in one part."""
    spec = importlib.util.spec_from_file_location("icl_on_gpu", icl.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.np = SimpleNamespace(**vars(xp))
    module.chunks = lambda *arrays: [arrays]
    if hasattr(xp, "RawModule"):
        module.column_sums = lambda x: column_sums(xp, x)
        module.gelu = gelu(xp)
        module.layernorm, module.attention = by_rows(xp)
    return module


def column_sums(xp, x):
    """x.sum(0) in two stages: all processors at work, where x has many rows and few columns."""
    n = math.gcd(len(x), 256)
    parts = xp.ones((n, 1, len(x) // n), x.dtype) @ x.reshape(n, -1, x.shape[1])  # (n, 1, O)
    return xp.ones(n, x.dtype) @ parts[:, 0]


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


def by_rows(xp):
    """icl.layernorm and icl.attention with the kernels above: each reads and writes a row once."""
    kernels = xp.RawModule(code=ROWS)

    def run(name, *arrays):
        rows, C = arrays[0].size // arrays[0].shape[-1], arrays[0].shape[-1]
        assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays)
        kernels.get_function(name)(((rows + 7) // 8,), (32, 8),
                                   (*arrays, np.int32(rows), np.int32(C)))

    def layernorm(x, gain, bias):
        x = xp.ascontiguousarray(x)
        y, n, rstd = xp.empty_like(x), xp.empty_like(x), xp.empty(len(x), x.dtype)
        run("layernorm", x, gain, bias, y, n, rstd)

        def backward(dy):
            dy = xp.ascontiguousarray(dy)
            dx, dyn = xp.empty_like(x), xp.empty_like(x)
            run("layernorm_backward", dy, n, rstd, gain, dx, dyn)
            return dx, column_sums(xp, dyn), column_sums(xp, dy)

        return y, backward

    def attention(qkv, n_head):
        B, T = qkv.shape[:2]

        def split(a):
            return a.reshape(B, T, n_head, -1).swapaxes(1, 2)

        q, k, v = (xp.ascontiguousarray(split(a)) for a in xp.split(qkv, 3, axis=2))
        scale = q.shape[3] ** -0.5
        q *= scale
        p = q @ k.swapaxes(2, 3)  # (B, H, queries, keys)
        run("softmax", p)
        y = p @ v

        def backward(dy):
            dqkv = xp.empty_like(qkv)
            dq, dk, dv = (split(a) for a in xp.split(dqkv, 3, axis=2))
            dy = xp.ascontiguousarray(split(dy))
            ds = dy @ v.swapaxes(2, 3)
            run("softmax_backward", p, ds)
            dq[...] = ds @ k
            dq *= scale
            dk[...] = ds.swapaxes(2, 3) @ q
            dv[...] = p.swapaxes(2, 3) @ dy
            return dqkv

        return xp.ascontiguousarray(y.swapaxes(1, 2)).reshape(B, T, -1), backward

    return layernorm, attention


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
        self.steps, self.rates = 0, xp.zeros(3, np.float32)

    def named(self, arrays, groups, like):
        """Name -> view of the arrays of `groups`, with the shapes of `like`."""
        views = {}
        for key, names in groups.items():
            flat, start = arrays[key].reshape(-1), 0
            for name in names:
                views[name] = flat[start:start + like[name].size].reshape(like[name].shape)
                start += like[name].size
        return views

    def set_rates(self, lr, matrix_lr, b1=0.9, b2=0.98):
        """The rates of the next step, on the GPU: a recorded step reads them there."""
        self.steps += 1
        put(self.rates, np.float32([lr / (1 - b1**self.steps), 1 / (1 - b2**self.steps),
                                    matrix_lr]))

    def update(self, grads, b1=0.9, b2=0.98, momentum=0.9):
        xp, (lr, unbias, matrix_lr) = self.xp, (self.rates[i] for i in range(3))
        for name, grad in grads.items():
            self.grads[name][...] = grad
        norm = xp.sqrt(sum((g * g).sum() for g in self.g.values()))
        scale = xp.minimum(1 / xp.maximum(norm, 1e-30), 1)  # clip = 1
        for key, p in self.p.items():
            m, g = self.m[key], self.g[key] * scale
            if key == "adam":
                m += (1 - b1) * (g - m)
                self.v += (1 - b2) * (g * g - self.v)
                p -= lr * m / (xp.sqrt(self.v * unbias) + 1e-8)
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


def put(array, values):
    """Fill an array of the GPU (or of a stand-in on the CPU) with NumPy's values."""
    if hasattr(array, "set"):
        array.set(values)
    else:
        array.view(np.ndarray)[...] = values


def recorded(xp, step, pool=[]):
    """The step as one CUDA graph, or as it is where it cannot be recorded.

    Its memory stays in a pool of its own: nothing else may use it between two steps.
    """
    if not hasattr(xp, "cuda"):
        return step
    pool[:] = pool or [xp.cuda.MemoryPool()]
    stream = xp.cuda.get_current_stream()
    with xp.cuda.using_allocator(pool[0].malloc):
        step()  # a real step: compiles, and fills the pool
        try:
            stream.begin_capture()
            step()
            graph = stream.end_capture()
        except Exception as error:
            print(f"not recorded: {error!r}", flush=True)
            return step
    return lambda: graph.launch(stream)


def model_of(a):
    """What train.py calls a Predictor: the model that the arguments name, at their size."""
    experiment = a.name.split("/")[0]
    fields = "batch", "curriculum", "first_dims", "n_layer", "n_head", "n_embd"
    given = {field: value for field in fields if (value := getattr(a, field)) is not None}
    size = replace(train.SIZES[a.size], **given)
    size = replace(size, lr=size.lr * a.rates, matrix_lr=size.matrix_lr * a.rates)
    e = train.make_experiment(experiment, size, a.seed)
    models = {p.label: p for p in train.predictors_of(e, a.out) if p.steps}
    if a.name not in models:
        sys.exit(f"gpu.py: there is no model {a.name!r}, but {', '.join(models)}")
    return replace(models[a.name], steps=a.steps or sys.maxsize)


def learn(a):
    """Train a model, and save it."""
    try:
        xp = importlib.import_module(a.backend)
    except ImportError as error:
        sys.exit(f"gpu.py: {error}; it needs CuPy and an NVIDIA GPU")
    model = model_of(a)
    if hasattr(xp, "cuda"):
        xp.cuda.Stream(non_blocking=True).use()  # the default stream cannot be recorded
    host = getattr(xp, "asnumpy", np.asarray)
    gpu, e, size = icl_on(xp), model.experiment, model.experiment.size
    initial = (icl.load_checkpoint(a.start)[0] if a.start
               else icl.init_params(e.config, e.stream(model.name, 0)))
    optimizer = Muon(xp, {name: xp.asarray(p) for name, p in initial.items()})
    params, rng = optimizer.params, e.stream(model.name, "training prompts", *a.part)
    history, shown, done, inputs = xp.zeros(1 << 20, np.float32), (0, START), 0, None
    loss = xp.zeros((), np.float32)

    def step():
        xs, ys, weights = inputs
        predictions, backward = gpu.transformer(params, e.config, xs, ys)
        error = predictions - ys
        loss[...] = (weights * error * error).sum() / ys.size
        optimizer.update(backward(weights * error * (2 / ys.size)))

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
                sys.exit(f"{a.name} diverged")
        if progress >= 1:
            break
        schedule = min(1, (done + 1) / size.warmup) * (1 - progress)
        optimizer.set_rates(size.lr * schedule, size.matrix_lr * schedule)
        batch = train.training_batch(model, progress, rng)
        if inputs is None or inputs[0].shape != batch[0].shape:  # a new lesson has longer prompts
            inputs = [xp.asarray(array) for array in batch]
            launch = step
            if a.graph and hasattr(xp, "cuda"):
                launch = recorded(xp, step)  # which takes this step
            else:
                step()
        else:
            for array, values in zip(inputs, batch):
                put(array, values)
            launch()
        history[done] = loss
        done += 1
    save(replace(model, steps=done), {name: host(p) for name, p in params.items()},
         host(history[:done]), now - START)


def save(model, params, losses, seconds):
    """The curve of training, as train.train writes it, and the checkpoint, whole and in parts."""
    every = max(1, model.steps // 200)
    rows = [f"{i},{np.mean(losses[i - every:i]):.9g}\n"
            for i in range(every, len(losses) + 1, every)]
    model.path.with_suffix(".csv").write_text("".join(["step,loss\n", *rows]))
    icl.save_checkpoint(model.path, params, model.experiment.config, step=model.steps,
                        seconds=seconds, settings=model.settings)
    data, part = model.path.read_bytes(), 15 << 20
    for i in range(0, len(data), part):
        Path(f"{model.path}.{i // part}").write_bytes(data[i:i + part])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("name", help="such as sparse/mixture")
    add("--size", choices=train.SIZES, default="paper")
    add("--steps", type=int)
    add("--seconds", type=float, help="from the program's start to the end of training")
    add("--batch", type=int, help="prompts a step (default: the size's)")
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
    add("--no-graph", dest="graph", action="store_false", help="start each operation by itself")
    add("--backend", default="cupy", help="cupy, numpy or strict")
    add("--out", type=Path, required=True)
    a = parser.parse_args()
    try:
        if a.measure:
            model = model_of(a)
            made = icl.load_checkpoint(model.path)[2]["settings"]
            train.measure_job(replace(model, steps=made["steps"]), print)
        else:
            learn(a)
    except (icl.Refused, OSError) as error:
        parser.exit(2, f"gpu.py: error: {error}\n")
