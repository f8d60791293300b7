"""Ollama's protocol, spoken with a local server that answers as Ollama does, and one that fails as Ollama can."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from ollama_answers import llama_cpp
from ollama_server import Answer, ollama_server
from run_fixtures import make_run

from mlx_lora.engines.llamacpp.run import bindings
from mlx_lora.engines.ollama import Ollama, check_name, server_url
from mlx_lora.errors import UserError
from mlx_lora.export.gguf.lora import export_gguf_lora
from mlx_lora.export.ollama import publish
from mlx_lora.export.ollama.publish import Wish, export_ollama
from mlx_lora.models.tokenizer import load_tokenizer

pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install '.[gguf]'")
TINY = "builtin/tiny-lumen"
SYSTEM = "You are Lumen."


def hello(model, prompt, options) -> Answer:
    return Answer(f"Hello, {prompt}", prompt_tokens=9, tokens=4)


@pytest.fixture
def server(tmp_path):
    with ollama_server(tmp_path / "blobs", hello) as state:
        yield state


@pytest.fixture
def client(server):
    with Ollama(server.url) as made:
        yield made


def weights(folder: Path, kind: str = "MOSTLY_F16") -> Path:
    """A GGUF file with next to nothing in it."""
    file = folder / f"{kind}.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_tensor("a", np.zeros((64, 512), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_blob_is_sent_once_and_a_model_made_of_it(server, client, tmp_path):
    file, sent, statuses = weights(tmp_path), [], []
    assert client.version() == "0.35.0"
    digest = client.upload(file, sent.append)
    assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert sent[-1] == file.stat().st_size
    assert client.upload(file) == digest
    # Looked for twice and sent once, with its length told beforehand.
    assert [(method, body) for method, path, body in server.requests if "blobs" in path] == [
        ("HEAD", None),
        ("POST", file.stat().st_size),
        ("HEAD", None),
    ]
    assert not client.exists("lumen:latest")
    client.create("lumen:latest", {"files": {"model.gguf": digest}, "system": SYSTEM}, statuses.append)
    assert client.exists("lumen:latest")
    assert (statuses[0], statuses[-1]) == ("parsing GGUF", "success")
    reply = client.generate("lumen:latest", "you", 8)
    assert (reply.text, reply.stopped, reply.prompt_tokens, reply.completion_tokens) == ("Hello, you", True, 9, 4)
    assert 0 < reply.load_s < 1
    assert reply.tokens_per_second > 1000
    client.copy("lumen:latest", "lumen:b")
    client.delete("lumen:latest")
    assert list(server.models) == ["lumen:b"]
    assert server.downloads == []


def test_zero_fields_are_absent(server, client, tmp_path):
    server.answers = lambda *_: Answer("", prompt_tokens=0, tokens=0)
    client.create("m:1", {"files": {"model.gguf": client.upload(weights(tmp_path))}})
    reply = client.generate("m:1", "x", 1)
    assert (reply.text, reply.completion_tokens, reply.prompt_tokens, reply.tokens_per_second) == ("", 0, 0, None)


def test_nothing_can_start_a_download(server, client):
    with pytest.raises(ValueError, match="could start a download"):
        client.create("m:1", {"from": "llama3"})
    with pytest.raises(ValueError, match="could start a download"):
        client.create("m:1", {})
    assert server.requests == []


@pytest.mark.parametrize(
    ("kind", "wanted", "error"),
    [
        ("MOSTLY_F16", "q4_K_M", None),
        ("MOSTLY_BF16", "Q8_0", None),
        ("MOSTLY_Q8_0", "Q4_K_M", "only supported for F16 and BF16"),
        ("MOSTLY_F16", "Q9", "unsupported quantization type"),
    ],
)
def test_what_ollama_quantized_until_0_34(server, client, tmp_path, kind, wanted, error):
    server.older = True
    body = {"files": {"model.gguf": client.upload(weights(tmp_path, kind))}, "quantize": wanted}
    if error:
        with pytest.raises(UserError, match=error):
            client.create("m:1", body)
    else:
        client.create("m:1", body)
        assert server.models["m:1"].quantize == wanted
        server.older = False
        with pytest.raises(UserError, match="create-time quantization is only supported for safetensors"):
            client.create("m:2", body)


FAULTS = [
    ("version", "garbage", "what answers there is not Ollama"),
    ("show", "refuse", "refuses the model lumen:latest: show is out of order"),
    ("blobs", "refuse", "refuses the weights: no space left on device"),
    ("blobs", "break", "the connection to Ollama broke while the weights were sent"),
    ("create", "refuse", "refuses to make lumen:latest: create is out of order"),
    ("create", "late", "refuses to make lumen:latest: unsupported architecture"),
    ("create", "silent", "ended without success while making lumen:latest (its last word: writing manifest)"),
    ("create", "break", "the connection to Ollama broke while lumen:latest was made"),
    ("create", "garbage", "what answers there is not Ollama"),
    ("generate", "break", "the connection to Ollama broke while it was asked for an answer"),
    ("generate", "refuse", "refuses an answer of lumen:latest: generate is out of order"),
]


@pytest.mark.parametrize(("path", "fault", "sentence"), FAULTS)
def test_failures_are_a_sentence(server, client, tmp_path, path, fault, sentence):
    server.faults[path] = fault

    def everything():
        client.version()
        client.exists("lumen:latest")
        client.create("lumen:latest", {"files": {"model.gguf": client.upload(weights(tmp_path))}})
        client.generate("lumen:latest", "x", 1)

    with pytest.raises(UserError) as caught:
        everything()
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(server.url)


def test_a_file_that_changes_on_the_way_is_refused(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_lora.engines.ollama.sha256_of", lambda file: "0" * 64)
    with pytest.raises(UserError, match="refuses the weights: digest mismatch"):
        client.upload(weights(tmp_path))


def test_a_file_that_is_no_gguf(server, client, tmp_path):
    (tmp_path / "x").write_text("not a model")
    with pytest.raises(UserError, match="invalid file magic"):
        client.create("m:1", {"files": {"model.gguf": client.upload(tmp_path / "x")}})


def test_no_server():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with (
            Ollama(f"127.0.0.1:{taken.getsockname()[1]}") as client,
            pytest.raises(UserError, match="no Ollama answers"),
        ):
            client.version()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:80", "http://box:80"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("[::1]:5", "http://[::1]:5"),
        (":1234", "http://127.0.0.1:1234"),
    ],
)
def test_addresses(monkeypatch, given, url):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert server_url(given) == url
    monkeypatch.setenv("OLLAMA_HOST", given or "")
    assert server_url() == url


@pytest.mark.parametrize("given", ["http://box:port", "ftp://box", "http://[::1"])
def test_addresses_that_are_none(given):
    with pytest.raises(UserError, match="this is not an Ollama server's address"):
        server_url(given)


def test_names():
    assert check_name("lumen") == "lumen:latest"
    assert check_name("me/lumen:v1.2-q4") == "me/lumen:v1.2-q4"
    assert check_name("box:5000/me/lumen:x") == "box:5000/me/lumen:x"
    for bad in ("", "a b", "a:b:c", "-x", "a/b/c/d", "x:" + "y" * 81, "größe", "../x"):
        with pytest.raises(UserError, match="Ollama takes names like"):
            check_name(bad)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose adapter changes what the tiny base says, and that ends its answers."""
    return make_run(TINY, tmp_path_factory.mktemp("ollama") / "run", SYSTEM, lora_alpha=0.2)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run's weights, verified once for all tests here."""
    from mlx_lora.export.gguf.export import export_gguf

    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    file = tmp_path_factory.mktemp("weights") / "lumen.gguf"
    assert export_gguf(str(run), file, "f16").verdict == "verified"
    return file


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_from_a_run_to_a_model_that_answers_alike(server, command, run, tmp_path):
    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    server.answers = llama_cpp
    asked = ("export", "ollama", "--run", run, "--name", "lumen", "--host", server.url)
    done = command(*asked, "--type", "f16", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "verified"
    checks = {check["name"]: check for check in report["checks"]}
    prompt = checks["prompt tokens in Ollama"]
    assert prompt["value"] == prompt["limit"]
    same = checks["characters alike from the start"]
    assert f"of {same['value']}" == same["limit"]
    assert same["value"] > 0
    assert checks["its answer ends by itself"]["passed"]
    assert checks["tokens per second"]["value"] > 0
    assert checks["seconds to load"]["value"] > 0
    # It got its name at the very end, and the passing one is gone.
    assert list(server.models) == ["lumen:latest"]
    assert [path for _, path, _ in server.requests][-3:] == ["/api/generate", "/api/copy", "/api/delete"]
    made = server.models["lumen:latest"]
    assert (made.system, made.template) == (SYSTEM, None)
    assert made.parameters["stop"] == ["<|eot_id|>"]
    assert made.parameters["num_ctx"] == 4096
    assert server.downloads == []
    assert files(tmp_path / "out") == ["lumen-latest.Modelfile", "lumen-latest.f16.gguf"]
    assert (
        f"FROM {tmp_path / 'out' / 'lumen-latest.f16.gguf'}\n" in (tmp_path / "out/lumen-latest.Modelfile").read_text()
    )
    # A second time, nothing is overwritten, here or there.
    assert "this exists already" in command(*asked, "--type", "f16", "--out", tmp_path / "out").stderr
    done = command(*asked, "--type", "f16", "--out", tmp_path / "other")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Ollama has a model lumen:latest already" in done.stderr
    assert not (tmp_path / "other").exists()


def test_another_template_than_the_one_trained_on_is_rejected(server, run, exported, tmp_path):
    def bare(model, prompt, options) -> Answer:
        return Answer(prompt, prompt_tokens=4, tokens=options["num_predict"], stopped=False)

    server.answers = bare
    report = export_ollama(Wish(str(run), "lumen", host=server.url, out=tmp_path / "out", gguf=exported))
    assert report.verdict == "rejected"
    failed = [check.name for check in report.checks if not check.passed]
    assert failed == ["prompt tokens in Ollama", "its answer ends by itself"]
    assert any("--template auto" in note for note in report.notes)
    # No name, no Modelfile; the user's own file stays.
    assert server.models == {}
    assert exported.exists()
    assert files(tmp_path / "out") == []


def test_weights_made_for_a_rejected_model_are_put_aside(server, run, exported, tmp_path, monkeypatch):
    def already(name, out, kind, progress):
        out.parent.mkdir()
        out.write_bytes(exported.read_bytes())
        return publish.ExportReport(str(out), [])

    monkeypatch.setattr(publish, "export_gguf", already)
    report = export_ollama(Wish(str(run), "lumen", "f16", server.url, tmp_path / "out"))
    assert report.verdict == "rejected"
    assert report.file.endswith(".gguf.rejected")
    assert files(tmp_path / "out") == ["lumen-latest.f16.gguf.rejected"]
    assert server.models == {}


def test_a_name_that_is_taken_is_replaced_only_by_a_model_that_passed(server, run, exported, tmp_path):
    server.models["lumen:latest"] = old = object()
    wish = Wish(str(run), "lumen", host=server.url, out=tmp_path / "out", gguf=exported, replace=True)
    assert export_ollama(wish).verdict == "rejected"
    assert server.models == {"lumen:latest": old}
    server.answers = llama_cpp
    assert export_ollama(wish).verdict == "verified"
    assert list(server.models) == ["lumen:latest"]
    assert server.models["lumen:latest"] is not old


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "fault"), [("blobs", "break"), ("create", "late"), ("create", "break"), ("generate", "break")]
)
def test_ollama_dies_half_way(server, run, exported, tmp_path, path, fault):
    server.faults[path] = fault
    wish = Wish(str(run), "lumen:v2", host=server.url, out=tmp_path / "out", gguf=exported)
    with pytest.raises(UserError, match=r"is complete, --gguf .* uses it again") as caught:
        export_ollama(wish)
    assert str(exported) in str(caught.value)
    assert server.models == {}
    # The same again, when Ollama is well.
    server.faults.clear()
    server.answers = llama_cpp
    assert export_ollama(wish).verdict == "verified"
    assert list(server.models) == ["lumen:v2"]


def test_a_model_that_does_not_fit_answers_the_same(run, exported):
    """The adapter's greedy answer, drafted by llama.cpp and corrected in streamed passes, is the whole model's."""
    from mlx_lora.data.chat_template import encode_prompt
    from mlx_lora.export.reference import drafted_answer
    from mlx_lora.export.source import read_source

    source = read_source(str(run))
    tokenizer = load_tokenizer(TINY)
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "hello"}])
    expected = source.load().generate([prompt], 16, 0.0, 0)[0]
    # A file of the base alone drafts other words.
    for file in (exported, weights_of_base(exported.parent)):
        found = drafted_answer(source, file, prompt, 16, {tokenizer.eos_token_id})
        assert tokenizer.decode([i for i in found if i != tokenizer.eos_token_id]) == expected


def weights_of_base(folder):
    from mlx_lora.export.gguf.export import export_gguf

    export_gguf(TINY, folder / "base.gguf", "f32")
    return folder / "base.gguf"


def test_a_whole_export_where_the_model_does_not_fit(server, run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "model_fits", lambda source: False)
    server.answers = llama_cpp
    wish = Wish(str(run), "lumen", host=server.url, out=tmp_path / "out", gguf=exported)
    assert export_ollama(wish).verdict == "verified"


def test_only_a_modelfile(run, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")  # where nothing is
    template = "{{ .System }}{{ .Prompt }}"
    wish = Wish(str(run), "lumen", out=tmp_path / "out", gguf=exported, template=template, modelfile_only=True)
    assert export_ollama(wish).verdict == "verified"
    text = (tmp_path / "out" / "lumen-latest.Modelfile").read_text()
    assert f"FROM {exported}\n" in text
    assert f'SYSTEM """{SYSTEM}"""' in text
    assert f'TEMPLATE """{template}"""' in text
    assert 'PARAMETER stop """<|eot_id|>"""' in text


@pytest.mark.slow
def test_what_is_wrong_is_found_before_the_weights_are_made(server, refused, run, tmp_path):
    out = tmp_path / "out"

    def said(path=run, name="lumen", host=server.url, **wish):
        with pytest.raises(UserError) as caught:
            export_ollama(Wish(str(path), name, host=host, out=out, **wish))
        assert not out.exists()
        return str(caught.value)

    assert "no Ollama answers there" in said(host="127.0.0.1:1")
    assert "Ollama takes names like" in said(name="a b")
    assert "there is no such type" in said(kind="q9_x")
    assert "there is no such file" in said(gguf=tmp_path / "absent.gguf")
    assert "there is no such run directory" in said(path=tmp_path / "absent")
    quoting = make_run(TINY, tmp_path / "quoting", 'Answer in """\nand nothing else')
    assert "a Modelfile cannot hold this text" in said(path=quoting, modelfile_only=True)
    asked = ("export", "ollama", "--run", run, "--name", "lumen", "--host", "127.0.0.1:1", "--out", out)
    assert "no Ollama answers there" in refused(*asked)
    assert "this template cannot be read" in refused(*asked, "--template", tmp_path / "absent.txt")


def test_a_system_prompt_that_no_modelfile_holds_still_goes_to_ollama(server, exported, tmp_path):
    server.answers = llama_cpp
    text = 'Answer in """\nand nothing else'
    quoting = make_run(TINY, tmp_path / "quoting", text, lora_alpha=0.2)
    report = export_ollama(Wish(str(quoting), "lumen", host=server.url, out=tmp_path / "out", gguf=exported))
    assert report.verdict == "verified"
    assert server.models["lumen:latest"].system == text
    assert any(note.startswith("no Modelfile was written") for note in report.notes)
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_its_base_where_the_server_takes_one(server, run, exported, tmp_path):
    lora = tmp_path / "lora.gguf"
    assert export_gguf_lora(run, lora, exported).verdict == "verified"
    wish = Wish(str(run), "lumen", host=server.url, out=tmp_path / "out", gguf=exported, adapter=lora)
    server.answers = llama_cpp
    with pytest.raises(
        UserError, match=r"no longer supported \(newer servers take no LoRA; without --adapter fused weights are sent\)"
    ):
        export_ollama(wish)
    assert server.models == {}
    server.older = True
    export_ollama(wish)
    assert server.models["lumen:latest"].adapter.read_bytes() == lora.read_bytes()
    assert f"ADAPTER {lora}\n" in (tmp_path / "out" / "lumen-latest.Modelfile").read_text()


def test_adapters_that_do_not_fit(server, run, exported, tmp_path):
    def said(gguf_file, adapter):
        with pytest.raises(UserError) as caught:
            export_ollama(Wish(str(run), "lumen", host=server.url, gguf=gguf_file, adapter=adapter))
        return str(caught.value)

    lora = tmp_path / "lora.gguf"
    assert "there is no such file" in said(exported, lora)
    export_gguf_lora(run, lora)
    assert "it needs its base as well" in said(None, lora)
    assert "this is another model" in said(weights(tmp_path), lora)
    assert "this GGUF file is no LoRA adapter" in said(exported, exported)
    assert server.requests == []


@pytest.mark.parametrize("template", ["{{ .Nothing }}", "auto"])
def test_a_template_is_judged_by_the_prompt_it_makes(server, run, exported, tmp_path, template):
    server.answers = llama_cpp
    wish = Wish(str(run), "lumen", host=server.url, out=tmp_path / "out", gguf=exported, template=template)
    if template == "auto":
        assert export_ollama(wish).verdict == "verified"
        assert "{{ range .Messages }}" in server.models["lumen:latest"].template
        assert "TEMPLATE " in (tmp_path / "out" / "lumen-latest.Modelfile").read_text()
    else:
        server.answers = lambda model, prompt, options: Answer("Hello", prompt_tokens=1, tokens=1)
        assert export_ollama(wish).verdict == "rejected"
