"""PyTorch's numbers for tests/plain.rs: `python plain_pytorch.py > plain_pytorch.json` (torch 2.x, CPU).

Windows, initial weights and orders follow from the generator of models/kernel/src/rng.rs, so that only results are kept.
"""

import json

import numpy as np
import torch

MASK = (1 << 64) - 1


class Rng:
    """xoshiro256++ seeded through splitmix64."""

    def __init__(self, seed):
        self.s = []
        for _ in range(4):
            seed = (seed + 0x9E3779B97F4A7C15) & MASK
            z = seed
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            self.s.append(z ^ (z >> 31))

    def next(self):
        s = self.s
        rotl = lambda x, k: ((x << k) | (x >> (64 - k))) & MASK
        result = (rotl((s[0] + s[3]) & MASK, 23) + s[0]) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotl(s[3], 45)
        return result

    def uniform(self):
        return np.float32(self.next() >> 40) * np.float32(1.0 / 16_777_216.0)

    def symmetric(self, shape, bound):
        one, two, bound = np.float32(1), np.float32(2), np.float32(bound)
        n = int(np.prod(shape))
        return np.array([(two * self.uniform() - one) * bound for _ in range(n)], np.float32).reshape(shape)

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            j = (self.next() * (i + 1)) >> 64
            items[i], items[j] = items[j], items[i]


class Plain(torch.nn.Module):
    def __init__(self, inputs, hidden, outputs, rng):
        super().__init__()
        self.lstm = torch.nn.LSTM(inputs, hidden, batch_first=True)
        self.head = torch.nn.Linear(hidden, outputs)
        bound = np.float32(1) / np.sqrt(np.float32(hidden))
        with torch.no_grad():
            for p in self.tensors():
                p.copy_(torch.from_numpy(rng.symmetric(tuple(p.shape), bound)))

    def tensors(self):
        l = self.lstm
        return [l.weight_ih_l0, l.weight_hh_l0, l.bias_ih_l0, l.bias_hh_l0, self.head.weight, self.head.bias]

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def gradients():
    rng = Rng(21)
    steps, inputs, hidden, outputs, batch = 11, 3, 10, 2, 37
    model = Plain(inputs, hidden, outputs, rng).double()
    x = torch.from_numpy(rng.symmetric((batch, steps, inputs), 1.5)).double()
    y = torch.from_numpy(rng.symmetric((batch, outputs), 1.0)).double()
    torch.nn.functional.mse_loss(model(x), y).backward()
    return [p.grad.flatten().tolist() for p in model.tensors()]


def losses(batch):
    rng = Rng(22)
    n, steps = 700, 30
    series = np.array([rng.uniform() for _ in range((n + steps) * 2)], np.float32).reshape(-1, 2)
    x = np.stack([series[i : i + steps] for i in range(n)])
    f = np.float32
    y = f(0.6) * x[:, 29, 0] + f(0.3) * x[:, 20, 1] + f(0.1) * x[:, 10, 0] * x[:, 25, 1]
    x, y = torch.from_numpy(x), torch.from_numpy(y.reshape(-1, 1))
    model = Plain(2, 50, 1, rng)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    order, curve = list(range(n)), []
    for _ in range(20):
        if batch < n:
            rng.shuffle(order)
        total = 0.0
        for i in range(0, n, batch):
            rows = torch.tensor(order[i : i + batch])
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x[rows]), y[rows])
            loss.backward()
            adam.step()
            total += loss.item() * len(rows)
        curve.append(total / n)
    return curve


torch.set_num_threads(1)
print(json.dumps({"torch": torch.__version__, "gradients": gradients(), "full_batch": losses(700), "mini_batch_32": losses(32)}))
