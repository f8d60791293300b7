"""Salience: an agent stores what matters while it talks, and trains on it at night.

    python examples/salience.py

writes to the working directory, which should be empty.
"""

from __future__ import annotations

import subprocess
import sys

from mlx_lora.sources.salience import ExperienceCollector, make_salience_dataset

EXCHANGES = [
    ("What did you notice today?", "We found a small boat by the lake, and I wonder who left it there for us."),
    ("How was the walk?", "I loved it! The rain surprised me, and then I understood why the path turns away."),
    ("What about the owl?", "It was not where I expected it. Why does it move each night? I am curious about that."),
    ("And by the lake?", "We found a small boat by the lake, and I wonder who left it there for us."),
]


def main() -> None:
    """Collect, make the dataset, and train three steps on it."""
    # Several programs may hold the same buffer; what is below the threshold or repeats itself is not stored.
    collector = ExperienceCollector("buffer.json", salience_threshold=0.4)
    for session, (prompt, response) in enumerate(EXCHANGES):
        result = collector.add_exchange(prompt, response, session)
        print(f"{result['salience']['total']:.2f}", "stored" if result["stored"] else "not stored", "-", prompt)
    make_salience_dataset("data", ["buffer.json"], min_salience=0.4)
    # The built-in base stands for the preset's, which would be downloaded.
    settings = ["--config", "sleep", "--set", "model_name=builtin/tiny-lumen", "--set", "max_steps=3"]
    train = [sys.executable, "-m", "mlx_lora", "train", *settings, "--data", "data", "--out", "run"]
    subprocess.run(train, check=True)


if __name__ == "__main__":
    main()
