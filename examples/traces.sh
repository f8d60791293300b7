#!/bin/sh -e
# Traces: an agent's refused attempt and its accepted refinement become a prompt and an answer.
# Everything is written to the working directory, which should be empty.
for number in 1 2 3 4; do
  refused="r$number" accepted="a$number"
  mkdir -p "store/objects/$refused" "store/objects/$accepted"
  cat > "store/objects/$refused/$refused.json" <<JSON
{"artifact_id": "$refused", "workflow_id": "w$number", "action_pair_id": "ap_code", "content": "def add(n): return n",
 "previous_attempt_id": null, "created_at": "2026-02-03T06:54:11+00:00", "attempt_number": 1, "status": "rejected",
 "guard_result": {"passed": false, "feedback": "add(1) is 1", "fatal": false},
 "context": {"specification": "Add $number to a number", "constraints": "", "feedback_history": [],
             "dependency_artifacts": {}}}
JSON
  cat > "store/objects/$accepted/$accepted.json" <<JSON
{"artifact_id": "$accepted", "workflow_id": "w$number", "action_pair_id": "ap_code",
 "content": "def add(n): return n + $number", "previous_attempt_id": "$refused",
 "created_at": "2026-02-03T06:54:17+00:00", "attempt_number": 2, "status": "accepted",
 "guard_result": {"passed": true, "feedback": "", "fatal": false},
 "context": {"specification": "Add $number to a number", "constraints": "",
             "feedback_history": [{"artifact_id": "$refused", "feedback": "add(1) is 1"}],
             "dependency_artifacts": {}}}
JSON
done
mlx-lora data traces --store store --out data
# The built-in base stands for the preset's, which would be downloaded.
mlx-lora train --config traces --data data --out run --set model_name=builtin/tiny-lumen --set max_steps=3
