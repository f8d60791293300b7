#!/bin/sh -e
# EISV: expression tokens from trajectories. Everything is written to the working directory, which should be empty.
# With Lumen's own database: add --anima-db ~/.anima/anima.db to the first command.
mlx-lora data eisv --out data --min-per-shape 8
mlx-lora data show data 1
mlx-lora train --config quickstart --data data --out run --set max_steps=3
mlx-lora eval --suite eisv_gate1 --target run --cases data/test.jsonl --out results.json
mlx-lora gate results.json || echo "three steps are too few: leave out --set max_steps=3"
