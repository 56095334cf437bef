"""What others have published on the same tasks, to be shown beside our numbers and never to be tuned towards."""

PAPER = "Chung et al. 2014, Table 2 (averaging not stated)"

NLL: dict[str, dict[str, tuple[float, float]]] = {
    "nottingham": {"tanh": (3.22, 3.13), "gru": (2.79, 3.23), "lstm": (3.08, 3.20)},
    "jsb_chorales": {"tanh": (8.82, 9.10), "gru": (6.94, 8.54), "lstm": (8.15, 8.67)},
    "musedata": {"tanh": (5.64, 6.23), "gru": (5.06, 5.99), "lstm": (5.18, 6.23)},
    "piano_midi": {"tanh": (5.64, 9.03), "gru": (4.93, 8.82), "lstm": (6.49, 9.03)},
}
"""Task -> cell -> average negative log-probability in nats (train, test): the music half of Table 2."""

UNITS = {"tanh": 100, "gru": 46, "lstm": 36}
"""Cell -> number of units for music: Table 1."""

PROTOCOL = {"train.optimizer.name": "rmsprop", "train.weight_noise": 0.075, "train.clip_norm": 1.0}
"""What section 4.2 of the paper says of training, under our keys."""

CANDIDATES = 10
"""Learning rates of which the paper chose on validation."""


def published(task: str, cell: str, split: str, metric: str) -> float | None:
    """The paper's value, or None where it has none. It does not say by which averaging: it stands for both."""
    if metric not in ("nll_step", "nll_seq") or split not in ("train", "test"):
        return None
    values = NLL.get(task, {}).get(cell)
    return None if values is None else values[("train", "test").index(split)]
