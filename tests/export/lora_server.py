"""llama.cpp with a LoRA on a base, for the tests: ``python lora_server.py REQUEST.json`` in a process of its own.

xllamacpp installs from a wheel and holds llama.cpp's server, which gives the log-probability of every token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    import xllamacpp

    request = json.loads(Path(sys.argv[1]).read_text())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["model"]
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 256
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if request["lora"]:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(request["lora"], 1.0)]
    server = xllamacpp.Server(parameters)
    found = []
    for prompt in request["prompts"]:
        asked = {"prompt": prompt, "max_tokens": 1, "logprobs": request["vocabulary"], "cache_prompt": False}
        # Half a character has no probabilities: a whole word is drawn, which the probabilities say nothing of.
        answer = server.handle_completions({**asked, "seed": 1, "logit_bias": [[request["word"], 1000.0]]})
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found.append({str(token["id"]): token["logprob"] for token in top})
    Path(sys.argv[1]).with_suffix(".answer").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
