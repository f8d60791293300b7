"""Documents, their chunks, metadata and governance: of written cases, of real files, and of anything else."""

import json
import random
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from embedders import HashedWords

from mlx_lora.errors import UserError
from mlx_lora.retrieval.collections import COLLECTIONS, add_metadata, chunk_type, collection_of, parse_date
from mlx_lora.retrieval.documents import MOST_CHARACTERS, MOST_TOKENS, find_documents, split_document
from mlx_lora.retrieval.governance import REDACTED, check_secrets, governance_of, redact
from mlx_lora.retrieval.index import Index

COUNT = HashedWords().count_tokens
# Written for these tests; none was ever valid.
SECRETS = {
    "an AWS access key": "aws = AKIAQWERTZUIOP234567",
    "a GitHub token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7Zx9Kq2Lw8Vt3Yb6\n-----END RSA PRIVATE KEY-----",
    "a likely api_key": "api_key: 9fK2mQ7xL4vB8tR1",
    "a likely password": 'password = "tr0ub4dor&3x"',
    "a likely token": "ACCESS_TOKEN=q8W3e5R7t9Y2u4I6",
    "a likely private_key": "private_key='k3J9d7S1f5G8h2L4'",
    "a password in an address": "postgres://admin:S3cr3tPa55@db.internal:5432/x",
}
HARMLESS = (
    "const methodToken = tokens[1] ?? '';",
    "api_key = os.environ['API_KEY2']",
    "token: promptBuffer2Tokens(text)",
    "password: <your password>",
    "api_key=YOUR_API_KEY",
    "The secret: empty constructors, and 42 of them.",
    "private_key = ./keys/server1.pem",
    "token = process.env.TOKEN2024",
    "http://user:password@example.com",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
)


def split(name: str, text: str | bytes):
    return split_document(Path("/d") / name, text.encode() if isinstance(text, str) else text, COUNT)


class TestMarkdown:
    def test_each_chunk_has_its_headings_and_line(self):
        text = "intro\n# A\ntext a\n## B `x`\ntext b\n```sh\n# no heading\n```\n### C\n# D #\ntext d\n"
        found = [(c.line, c.headings, c.text) for c in split("a.md", text).chunks]
        assert found == [
            (1, (), "intro"),
            (3, ("A",), "text a"),
            (5, ("A", "B x"), "text b\n```sh\n# no heading\n```"),
            (11, ("D",), "text d"),
        ]

    def test_front_matter_governs_and_is_not_text(self):
        document = split("a.md", "---\nlicense: MIT\nok_to_train: false\nsecurity_level: Secret!\n---\n# A\ntext\n")
        assert [(c.line, c.text) for c in document.chunks] == [(7, "text")]
        governance = governance_of(document.front_matter).to_metadata()
        assert governance == {
            "ok_to_train": False,
            "ok_to_retrieve": True,
            "license": "MIT",
            "pii_flags": [],
            "security_level": "restricted",
        }
        assert split("a.md", "---\n[not: closed\n---\ntext").front_matter == {}

    def test_long_sections_end_at_paragraphs(self):
        paragraphs = [f"Paragraph {n}. " + "word " * 60 for n in range(12)]
        document = split("a.md", "# Title\n\n" + "\n\n".join(paragraphs))
        assert len(document.chunks) == 3
        for chunk in document.chunks:
            assert COUNT([chunk.searchable])[0] <= MOST_TOKENS
            assert chunk.text.startswith("Paragraph")
        assert [c.line for c in document.chunks] == [3, 11, 19]
        joined = " ".join(c.text for c in document.chunks)
        assert joined.split() == " ".join(paragraphs).split()

    @pytest.mark.parametrize(
        "text", ["x" * 50_000, "word " * 5000, "a\n" * 5000, "é" * 9000, "one. " * 3000, "\n" * 999]
    )
    def test_no_text_is_lost_or_too_long(self, text):
        chunks = split("a.txt", text).chunks
        assert "".join("".join(c.text for c in chunks).split()) == "".join(text.split())
        for chunk in chunks:
            assert COUNT([chunk.searchable])[0] <= MOST_TOKENS
            assert len(chunk.text) <= MOST_CHARACTERS

    def test_headings_of_any_length_leave_room(self):
        text = "".join(f"{'#' * n} {'long heading ' * 40}\n" for n in range(1, 7)) + "text " * 1000
        chunks = split("a.md", text).chunks
        assert sum(c.text.count("text") for c in chunks) == 1000
        assert all(c.headings and COUNT([c.searchable])[0] <= MOST_TOKENS for c in chunks)


class TestOtherKinds:
    def test_code_is_split_at_declarations_with_their_comments(self):
        text = "import x\n\n/**\n * One\n */\nexport class A {\n}\n\n// two\nexport async function b() {}\n"
        found = [(c.line, c.headings, c.text) for c in split("a.ts", text).chunks]
        assert found == [
            (1, (), "import x"),
            (3, ("A",), "/**\n * One\n */\nexport class A {\n}"),
            (9, ("b",), "// two\nexport async function b() {}"),
        ]

    def test_rows_are_chunks_and_bad_ones_are_named(self):
        call = {"tool_calls": [{"name": "read_file", "parameters": {"path": "a.ts"}}]}
        rows = [
            json.dumps({"instruction": "Read a.ts", "input": "a project", "output": json.dumps(call, indent=2)}),
            "{broken",
            json.dumps({"instruction": "List", "output": json.dumps(call), "is_negative_example": True}),
            json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}),
            "[]",
            json.dumps({"instruction": "Show", "output": json.dumps(call), "task_type": "tool_neg"}),
        ]
        document = split("tools.jsonl", "\n".join(rows))
        assert [line for line, _ in document.unusable] == [2, 5]
        first, second, third, fourth = document.chunks
        assert first.text == f"Read a.ts\na project\n{json.dumps(call)}"
        assert first.metadata["tools"] == ["read_file"]
        assert json.loads(first.metadata["call"]) == call
        assert [first.metadata["is_negative"], second.metadata["is_negative"], fourth.metadata["is_negative"]] == [
            False,
            True,
            True,
        ]
        assert third.text == "user: hi\nassistant: yes"
        assert (third.line, third.metadata["row"]) == (4, 4)

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00a", b"a\0b", b"caf\xe9"])
    def test_what_is_no_text_is_refused(self, content):
        with pytest.raises(ValueError, match=r"UTF-8|NUL"):
            split("a.md", content)

    def test_find_documents(self, tmp_path):
        for name in ("b.md", "a.ts", ".hidden.md", "image.png", "node_modules/x.js", ".git/y.md", "sub/c.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "link.md").symlink_to(tmp_path / "b.md")
        names = [
            str(p.relative_to(tmp_path)) for p in find_documents([tmp_path, tmp_path / "b.md", tmp_path / "image.png"])
        ]
        assert names == ["a.ts", "b.md", "sub/c.txt", "image.png"]


class TestGovernance:
    @pytest.mark.parametrize("name", SECRETS)
    def test_a_secret_stops_the_import_before_anything_is_written(self, tmp_path, name):
        (tmp_path / "a.md").write_text("# Fine\n\nNothing here.\n")
        (tmp_path / "b.md").write_text(f"# Keys\n\n{SECRETS[name]}\n")
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            with pytest.raises(UserError, match=rf"b\.md, line 3: {name} \(.{{4}}…") as raised:
                index.add([tmp_path / "a.md", tmp_path / "b.md"])
            assert max(re.findall(r"[\w&]+", SECRETS[name]), key=len)[6:] not in str(raised.value)
            assert index.list() == []

    def test_a_secret_behind_escapes(self, tmp_path):
        (tmp_path / "rows.jsonl").write_text(
            json.dumps({"prompt": "p", "response": SECRETS["a likely password"]}) + "\n"
        )
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            with pytest.raises(UserError, match="a likely password"):
                index.add([tmp_path / "rows.jsonl"])
            assert index.list() == []

    @pytest.mark.parametrize("text", HARMLESS)
    def test_what_only_looks_like_one(self, text):
        check_secrets(Path("a.md"), text)

    def test_addresses_are_redacted_everywhere_and_not_trained_on(self, tmp_path):
        file = tmp_path / "a.md"
        file.write_text(
            "# Mail of jane.doe@corp.io\n\n**Agent Name:** joe@corp.io\n\nAsk ann@corp.io or "
            "git@github.com:x/y or a@example.com\n\n# Other\n\nNothing.\n"
        )
        rows = tmp_path / "rows.jsonl"
        rows.write_text(
            '{"prompt": "who", "response": "eve\\u0040corp.io"}\n{"prompt": "what", "response": "nothing"}\n'
        )
        with Index.open(tmp_path / "index", embedder=HashedWords()) as index:
            index.add([file], "pdca_historical")
            index.add([rows])
            everything = "\n".join(
                path.read_bytes().decode("utf-8", "replace") for path in (tmp_path / "index").iterdir()
            )
            hits = {h.text: h.metadata for h in index.search("ask nothing who what", k=9, mode="vector")}
            documents = index.list()
        assert "corp.io" not in everything
        assert f"Ask {REDACTED} or git@github.com:x/y or a@example.com" in next(t for t in hits if "Ask" in t)
        assert all(d.metadata["pii_flags"] == ["email"] and d.metadata["ok_to_train"] is False for d in documents)
        flags = {text.split()[-1]: (m["pii_flags"], m["ok_to_train"]) for text, m in hits.items()}
        assert flags["nothing"] == ([], True)  # its row holds none
        assert flags["address]"] == (["email"], False)

    def test_redact(self):
        assert redact("a.b+c@mail.example.co.uk and x@y") == (f"{REDACTED} and x@y", True)
        assert redact("٣joe@corp.io_x " + "-" * 99 + "joe@münchen.de")[0].count("joe") == 0
        assert redact("nobody@example.org") == ("nobody@example.org", False)


PDCA = """# 📋 **PDCA Cycle: Task 18 Correction - Fix**

**🗓️ Date:** 2025-09-06-UTC-1825
**🎯 Objective:** Correct Task 18
**👤 Agent Name:** Claude Developer → Specialist
**👤 Agent Role:** Developer → Expert
**👤 Branch:** dev/once0304 → Task 18
**🎯 Project Journal Session:** 2025-09-05-UTC-1300-session → Correction
**🎯 Sprint:** Fresh Start → Accuracy
**🔗 Previous PDCA:** [GitHub](https://github.com/x/2025-09-06-UTC-1800-a.pdca.md) | [a](2025-09-06-UTC-1800-a.pdca.md)

## **📋 PLAN**
CMM3 work, not CMM1; CMM3 it is.
## **🔧 DO**
done
## **✅ CHECK**
checked
## **🎯 ACT**
acted
"""


class TestCollections:
    def test_a_pdca(self):
        document = split("2025-09-06-UTC-1825-task-18.pdca.md", PDCA)
        metadata = add_metadata(document, "pdca_historical")
        assert metadata == {
            "pdca_id": "2025-09-06-UTC-1825-task-18",
            "title": "PDCA Cycle: Task 18 Correction - Fix",
            "agent_name": "Claude Developer",
            "agent_role": "Developer",
            "date": "2025-09-06",
            "timestamp": int(datetime(2025, 9, 6, 18, 25, tzinfo=UTC).timestamp()),
            "session_id": "2025-09-05-UTC-1300-session",
            "branch": "dev/once0304",
            "sprint": "Fresh Start",
            "cmm_level": 3,
            "task_type": "correction",
            "objective": "Correct Task 18",
            "links": ["https://github.com/x/2025-09-06-UTC-1800-a.pdca.md", "2025-09-06-UTC-1800-a.pdca.md"],
            "dual_links": 1,
            "previous": "2025-09-06-UTC-1800-a.pdca.md",
            "verification_status": "complete",
            "trained_in_adapter": False,
            "training_batch": "",
            "training_date": "",
        }
        assert [c.metadata["chunk_type"] for c in document.chunks] == ["header", "plan", "do", "check", "act"]
        assert [c.metadata["chunk_index"] for c in document.chunks] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("name", "text", "layer"),
        [
            ("a.ts", "/**\n * Layer 3: interfaces\n */\n", "layer3"),
            ("layer5/x.ts", "", "layer5"),
            ("DefaultThing.ts", "import { T } from '../layer3/T.js'", "layer2"),
            ("ThingCLI.ts", "import { T } from '../layer2/T.js'", "layer5"),
            ("Thing.interface.ts", "", "layer3"),
            ("plain.ts", "import { T } from '../layer2/T.js'", "unknown"),
        ],
    )
    def test_a_component(self, name, text, layer):
        metadata = add_metadata(split(name, text + "\nexport class A {\n  constructor() {}\n}\n"), "components")
        assert metadata == {
            "file_path": f"/d/{name}",
            "layer": layer,
            "patterns": ["empty_constructor"],
            "file_type": "ts",
        }

    def test_every_collection_takes_every_kind(self):
        for name in COLLECTIONS:
            for file in ("a.md", "b.ts", "c.jsonl", "d"):
                add_metadata(split(file, '{"prompt": "2025-13-45"}'), name)

    def test_by_kind(self):
        names = ("x.pdca.md", "a.md", "a.ts", "a.jsonl", "README")
        assert [collection_of(Path(n)) for n in names] == [
            *("pdca_historical", "process_docs", "components", "tool_examples", "process_docs")
        ]

    def test_dates(self):
        assert parse_date("2025-13-01 then 2025-09-06") == ("2025-09-06", 1757116800)
        assert parse_date("none") == ("", 0)


class TestRealDocuments:
    def test_pdcas(self, realdata):
        found = {}
        for path in sorted((realdata / "pdca").glob("*.md")):
            document = split_document(path, path.read_bytes(), COUNT)
            check_secrets(path, document.text)
            found[path.name] = add_metadata(document, "pdca_historical")
            kept = "".join("".join(c.text for c in document.chunks).split())
            prose = [line for line in document.text.split("\n") if not line.startswith("#")]
            assert len(kept) >= len("".join("".join(prose).split()))
            assert {chunk_type(c) for c in document.chunks} >= {"header"}
        assert len(found) >= 40
        assert all(m["date"] and m["timestamp"] for m in found.values())
        assert sum(m["agent_role"] != "" for m in found.values()) >= 30
        assert sum(m["verification_status"] == "complete" for m in found.values()) >= 30
        assert {m["cmm_level"] for m in found.values()} >= {1, 3}

    def test_components(self, realdata):
        layers = []
        for path in sorted((realdata / "typescript").glob("*.ts")):
            document = split_document(path, path.read_bytes(), COUNT)
            check_secrets(path, document.text)
            metadata = add_metadata(document, "components")
            layers.append(metadata["layer"])
            assert metadata["file_type"] == "ts"
        assert {"layer2", "layer5", "unknown"} <= set(layers)


def fuzzed(generator: random.Random, seeds: list[bytes]) -> bytes:
    """Return a seed that was cut, doubled, damaged or mixed with another."""
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 6)):
        kind, place = generator.randrange(6), generator.randrange(len(data) + 1)
        if kind == 0:
            data[place : place + generator.randint(1, 400)] = b""
        elif kind == 1:
            data[place:place] = generator.choice(
                [b"#", b"```\n", b"\n\n", b"---\n", b"\x00", b"\xff", b"{", b"[](", b"**", b"\\u0000"]
            )
        elif kind == 2:
            data[place:place] = data[place : place + generator.randint(1, 400)] * generator.randint(1, 5)
        elif kind == 3 and data:
            data[generator.randrange(len(data))] = generator.randrange(256)
        elif kind == 4:
            data[place:place] = generator.choice(seeds)[: generator.randint(1, 500)]
        else:
            data[place:place] = generator.choice(["é\u2028", "\ud7ff", "🗓️", "٣", "²", "\u202e"]).encode()
    return bytes(data[:20_000])


class TestAnything:
    SEEDS = (
        PDCA.encode(),
        b"---\nlicense: MIT\n---\n# A\n\ntext\n\n## B\n\n```ts\nclass A {}\n```\n",
        b'{"instruction": "Read", "output": "{\\"tool_calls\\": [{\\"name\\": \\"ls\\", \\"parameters\\": {}}]}"}\n'
        * 3,
        b'{"messages": [{"role": "user", "content": "hi"}], "is_negative": true, "n": 1e999}\n',
        b"/** Layer 2 */\nexport class A {\n  constructor() {}\n}\n// two\nfunction b() {}\n",
        b"password: abc, token = x1, mail joe@corp.io, 2025-09-06\n",
    )

    @pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_no_document_raises_more_than_a_sentence(self, tmp_path, number):
        generator, outcomes = random.Random(number), Counter()
        folder = tmp_path / "docs"
        folder.mkdir()
        with Index.open(tmp_path / "index", embedder=HashedWords(8)) as index:
            for start in range(0, number, 50):
                files = []
                for n in range(start, start + 50):
                    files.append(
                        folder / f"f{n % 200}{generator.choice(['.md', '.pdca.md', '.ts', '.jsonl', '.txt', ''])}"
                    )
                    files[-1].write_bytes(fuzzed(generator, list(self.SEEDS)))
                try:
                    added = index.add(files, generator.choice([None, *COLLECTIONS]))
                except UserError as error:
                    outcomes["secret" if "import again" in str(error) else "other"] += 1
                    continue
                outcomes["added"] += added.documents
                outcomes["refused"] += len(added.refused)
                assert "joe@corp.io" not in str([h.text for h in index.search("mail", k=50, mode="text")])
        assert outcomes["added"] > number / 4
        assert outcomes["refused"] > 0
        assert outcomes["other"] == 0
