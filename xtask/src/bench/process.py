"""The usual Python stack's turn of `cargo xtask bench train`: one retraining as its user starts it, from CSV to a saved model.

process.py CSV SAVE

The model and its training are those of preset `classic`: 2 inputs, 30 steps, hidden 50, MinMax, MSE, Adam 0.01, 20 epochs over
the whole data at once. Only what such a script must import is imported; drift reports and orchestration are left out.
"""

import sys

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import MinMaxScaler

STEPS, INPUTS = 30, ["HUFL", "HULL"]
torch.manual_seed(1)
rows = pd.read_csv(sys.argv[1], parse_dates=["time"]).set_index("time").sort_index()
x = MinMaxScaler().fit_transform(rows[INPUTS])
y = MinMaxScaler().fit_transform(rows[["OT"]])
windows = np.stack([x[i : i + STEPS] for i in range(len(x) - STEPS)]).astype(np.float32)
targets = y[STEPS:].astype(np.float32)
cut = int(0.8 * len(windows))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(len(INPUTS), 50, batch_first=True)
        self.head = torch.nn.Linear(50, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


model, mse = Model(), torch.nn.MSELoss()
adam = torch.optim.Adam(model.parameters(), lr=0.01)
train_x, train_y = torch.from_numpy(windows[:cut]), torch.from_numpy(targets[:cut])
for _ in range(20):
    adam.zero_grad()
    loss = mse(model(train_x), train_y)
    loss.backward()
    adam.step()
with torch.no_grad():
    test = mse(model(torch.from_numpy(windows[cut:])), torch.from_numpy(targets[cut:]))
torch.save(model.state_dict(), sys.argv[2])
print(f"{loss.item():.5f} {test.item():.5f}")
