#!/bin/sh -e
# Instructions: rows in any of their forms, with an evaluation file that no training row may repeat.
# Everything is written to the working directory, which should be empty.
cat > train.jsonl <<'END'
{"task_type": "style", "instruction": "Name the light", "input": "At dawn", "output": "It is pale and rising."}
{"task_type": "style", "prompt": "Name the water.", "completion": "It is still and near."}
{"messages": [{"role": "user", "content": "Name the rest"}, {"role": "assistant", "content": "It is long and warm."}]}
{"task_type": "style", "instruction": "Name the noise", "output": "Whatever.", "metadata": {"is_negative_example": true}}
END
echo '{"task_type": "eval", "instruction": "Name the dark", "output": "It is wide and quiet."}' > eval.jsonl
mlx-lora data instructions train.jsonl eval.jsonl --out data
# The built-in base stands for the preset's, which would be downloaded.
mlx-lora train --config coder --data data --out run --set model_name=builtin/tiny-lumen --set max_steps=3
