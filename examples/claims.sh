#!/bin/sh -e
# Claims: answers that cite documents, each citation grounded in its prompt and weighted in the loss.
# Everything is written to the working directory, which should be empty.
cat > claims.jsonl <<'END'
{"id": 1, "claim": "Rest lowers the pulse.", "evidence": {"101": [{"sentences": [0], "label": "SUPPORT"}]}}
{"id": 2, "claim": "Light is warm.", "evidence": {"102": [{"sentences": [0], "label": "SUPPORT"}]}}
{"id": 3, "claim": "Water is dry.", "evidence": {"103": [{"sentences": [0], "label": "REFUTE"}]}}
{"id": 4, "claim": "No document of the corpus says this.", "evidence": {"999": [{"sentences": [0], "label": "SUPPORT"}]}}
END
cat > corpus.jsonl <<'END'
{"doc_id": 101, "title": "Rest", "abstract": ["After an hour of rest the pulse was lower.", "We asked ten."]}
{"doc_id": 102, "title": "Light", "abstract": ["Light is warm at noon."]}
{"doc_id": 103, "title": "Water", "abstract": ["Water was wet in all samples."]}
END
mlx-lora data claims --claims claims.jsonl --corpus corpus.jsonl --out data
# The built-in base stands for the preset's, which would be downloaded.
mlx-lora train --config claims --data data --out run --set model_name=builtin/tiny-lumen --set max_steps=3
