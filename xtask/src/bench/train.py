"""PyTorch's turn of `cargo xtask bench train`: as models/train/examples/epoch.rs, and the same output.

train.py N STEPS INPUT HIDDEN OUTPUT BATCH THREADS EPOCHS
"""

import json
import sys
import time

import torch

n, steps, inputs, hidden, output, batch, threads, epochs = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.set_num_interop_threads(1)
torch.manual_seed(1)
x, y = torch.rand(n, steps, inputs) * 2 - 1, torch.rand(n, output) * 2 - 1


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(inputs, hidden, batch_first=True)
        self.head = torch.nn.Linear(hidden, output)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


model = Plain()
adam = torch.optim.Adam(model.parameters(), lr=0.01)
mse = torch.nn.MSELoss()
cpu, wall, loss = [], [], 0.0
for epoch in range(epochs):
    began, spent = time.perf_counter(), time.process_time()
    order = torch.randperm(n)
    total = 0.0
    for i in range(0, n, batch):
        rows = order[i : i + batch]
        adam.zero_grad()
        step = mse(model(x[rows]), y[rows])
        step.backward()
        adam.step()
        total += step.item() * len(rows)
    loss = total / n
    cpu.append(time.process_time() - spent)
    wall.append(time.perf_counter() - began)
print(json.dumps({"cpu_s": cpu, "wall_s": wall, "loss": loss}))
