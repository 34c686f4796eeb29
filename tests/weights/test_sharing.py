"""Cards, files of which a part is read, the hub's cache and protocol, and loading into networks."""

import base64
import http.server
import json
import sys
import threading

import pytest
import torch
import yaml
from dense import covariance_of, make_block_case, make_case
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bayesprior.errors import (
    CheckpointError,
    ConfigError,
    MissingDependencyError,
    PriorFileError,
    StorageError,
)
from bayesprior.storage import HUB
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

PROVENANCE = {
    "role": "source posterior",
    "model": "SmallConvNet",
    "data": "glyphs",
    "num_data": 620,
    "objective": "simclr",
    "normalization": {"mean": [0.5], "std": [0.25], "size": None},
    "license": "apache-2.0",
}
COMMIT = "0" * 39 + "1"


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def law():
    return make_case("all shared", torch.float32, provenance=PROVENANCE).law


def test_the_card_has_what_another_needs(law):
    card = law.card("load('mine.safetensors')")
    _, header, body = card.split("---\n", 2)
    known = yaml.safe_load(header)
    assert (known["library_name"], known["license"]) == ("bayesprior", "apache-2.0")
    assert known["bayesprior"] == {
        "source_task": "glyphs",
        "num_data": 620,
        "objective": "simclr",
        "network": "SmallConvNet",
        "normalization": PROVENANCE["normalization"],
        "layout_digest": law.layout.digest(),
        "rank": 3,
        "rms_std": pytest.approx(law.rms_std, rel=1e-3),
        "coverage": "8 weights in 3 parameters: conv (2), head (1)",
        "statistics": ["0 buffers"],
    }
    assert "# Source posterior of SmallConvNet\n" in body
    assert f"| layout digest | {law.layout.digest()} |" in body
    assert "| statistics | 0 buffers |" in body
    code = body.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 5
    assert "source = bp.GaussianWeights.load('mine.safetensors')" in code
    assert "make_prior(source" in code
    compile(code, "card", "exec")


def test_the_card_of_a_prior_names_what_is_new_and_what_was_left():
    provenance = {"role": "prior", "left_behind": ["old.weight"]}
    prior = make_case("head", torch.float32, provenance=provenance).law
    card = prior.card()
    assert "new: head.weight; left behind: old.weight" in card
    assert "make_prior" not in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "unknown"


def test_a_card_takes_no_markup_of_the_provenance(law):
    law.provenance = {"model": "a\n# b | <b>", "data": "---\n[x](y)"}
    card = law.card()
    yaml.safe_load(card.split("---\n", 2)[1])
    assert "\n# b" not in card
    assert r"| source task | --- \[x\](y) |" in card


LAWS = {
    "one block": lambda: make_case("narrow", torch.float32).law,
    "no factor": lambda: make_case("no factor", torch.float32).law,
    "towers": lambda: make_block_case("two towers", torch.float32).law,
    "widths inside": lambda: make_block_case("widths inside", torch.float32).law,
    "row head": lambda: make_block_case("row head", torch.float32).law,
}


@pytest.mark.parametrize("kind", LAWS)
def test_a_shared_file_is_the_law_at_every_rank(kind, tmp_path):
    law, path = LAWS[kind](), tmp_path / "source.safetensors"
    law.save(path, card=True)
    assert "load('source.safetensors')" in (tmp_path / "source.md").read_text()
    close(covariance_of(GaussianWeights.load(path)), covariance_of(law))
    most = max(block.covariance.rank for block in law.blocks)
    for rank in range(most + 1):
        found = GaussianWeights.load(path, rank=rank)
        assert [b.covariance.rank for b in found.blocks] == [
            min(rank, b.covariance.rank) for b in law.blocks
        ]
        close(covariance_of(found), covariance_of(law.truncate(rank)))
        assert torch.equal(found.loc, law.loc)
    with pytest.raises(ConfigError, match=f"rank must be between 0 and {most}"):
        GaussianWeights.load(path, rank=most + 1)


def flip(path, name, row):
    """Change the first byte of one row of a tensor."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])[name]
    width = 4 * (entry["shape"][-1] if len(entry["shape"]) > 1 else 1)
    data[8 + size + entry["data_offsets"][0] + row * width] ^= 1
    path.write_bytes(data)


def test_directions_that_are_left_out_are_not_read_and_the_others_are_checked(law, tmp_path):
    path = tmp_path / "source.safetensors"
    law.save(path, card=True)
    flip(path, "cov_rows", 2)
    with pytest.raises(PriorFileError, match="corrupt"):
        GaussianWeights.load(path)
    close(covariance_of(GaussianWeights.load(path, rank=2)), covariance_of(law.truncate(2)))
    for name, row in (("cov_rows", 1), ("cov_variance", 0), ("loc", 3)):
        law.save(path, card=True)
        flip(path, name, row)
        with pytest.raises(PriorFileError, match="corrupt"):
            GaussianWeights.load(path, rank=2)


@pytest.mark.parametrize(
    ("parts", "is_read"),
    [
        ("no JSON", True),
        ("[1, 2]", True),
        ('{"cov_rows": 3}', True),
        ('{"cov_rows": ["", "", ""]}', False),
        ('{"cov_rows": [1, 2, 3], "loc": {}}', False),
        ('{"block.9.rows": [1, 2, 3]}', False),
    ],
)
def test_checksums_that_somebody_made_up(law, parts, is_read, tmp_path):
    """What no rank can be read from is read whole; anything else is told from the tensors."""
    path = tmp_path / "source.safetensors"
    law.save(path, card=True)
    with safe_open(path, framework="pt") as file:
        header = file.metadata() | {"parts": parts}
    save_file(load_file(path), path, metadata=header)
    if is_read:
        found = GaussianWeights.load(path, rank=1)
        close(covariance_of(found), covariance_of(law.truncate(1)))
    else:
        with pytest.raises(PriorFileError, match="is corrupt"):
            GaussianWeights.load(path, rank=1)
    close(covariance_of(GaussianWeights.load(path)), covariance_of(law))


def test_what_is_kept_has_memory_of_its_own(law, tmp_path):
    path = tmp_path / "source.safetensors"
    law.save(path, card=True)
    (body,) = GaussianWeights.load(path, rank=1).blocks
    for tensor in (body.covariance.diag, body.covariance.rows):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_file_without_a_card_stays_as_it_was(law, tmp_path):
    law.save(tmp_path / "a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert "cov_variance" not in file.keys()  # noqa: SIM118
        assert "parts" not in file.metadata()


@pytest.fixture
def cache(law, tmp_path):
    """The cache of huggingface_hub: blobs, a branch and a tag, snapshots that link to blobs."""
    repo = tmp_path / "hub" / "models--org--glyphs"
    for number, (name, width) in enumerate((("main", 1.0), ("v1", 4.0)), 1):
        commit = str(number) * 40
        law.rescale(cov_scale=width).save(repo / "blobs" / commit, card=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / HUB).symlink_to(f"../../blobs/{commit}")
    return {"cache_dir": tmp_path / "hub", "local_files_only": True}


def test_from_hub_finds_a_revision_in_the_cache_and_slices_it(law, cache):
    found = GaussianWeights.from_hub("org/glyphs", **cache)
    close(covariance_of(found), covariance_of(law))
    assert found.provenance == law.provenance
    tagged = GaussianWeights.from_hub("org/glyphs", revision="v1", rank=1, **cache)
    close(covariance_of(tagged), 4 * covariance_of(law.truncate(1)))


@pytest.mark.parametrize(
    ("repo", "revision"), [("org/other", None), ("org/glyphs", "v9"), ("no name", None)]
)
def test_what_the_hub_lacks_is_one_line(repo, revision, cache):
    with pytest.raises(PriorFileError, match=rf"gaussian\.safetensors of '{repo}' from") as caught:
        GaussianWeights.from_hub(repo, revision=revision, **cache)
    assert "\n" not in str(caught.value)
    assert "check the name and revision" in str(caught.value)


def test_without_the_library_the_extra_is_named(law, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: GaussianWeights.from_hub("a/b"), lambda: law.push_to_hub("a/b")):
        with pytest.raises(MissingDependencyError, match=r"pip install 'bayesprior\[hub\]'"):
            call()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as an upload and a download of small files take."""

    files: dict[str, bytes]

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        host = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            body = {"url": f"{host}/org/mine", "name": "org/mine"}
        elif "/preupload/" in self.path:
            files = [{**f, "uploadMode": "regular"} for f in json.loads(sent)["files"]]
            body = {"files": [{**f, "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            body = {"commitUrl": f"{host}/org/mine/commit/{COMMIT}", "commitOid": COMMIT}
        else:
            body = {"errors": [], "warnings": []}
        self.answer(json.dumps(body).encode(), Content_Type="application/json")

    def do_GET(self):
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            return self.answer(status=404, X_Error_Code="EntryNotFound")
        self.answer(content, ETag='"1"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def endpoint():
    handler = type("Handler", (Hub,), {"files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.files
        server.shutdown()
        thread.join()


def test_what_is_pushed_is_found_by_others(law, endpoint, tmp_path):
    address, files = endpoint
    where = law.push_to_hub("org/mine", endpoint=address, token="hf_x")
    assert where.endswith(COMMIT)
    assert sorted(files) == ["README.md", HUB]
    assert "from_hub('org/mine')" in files["README.md"].decode()
    found = GaussianWeights.from_hub("org/mine", endpoint=address, rank=2, cache_dir=tmp_path)
    close(covariance_of(found), covariance_of(law.truncate(2)))
    del files[HUB]
    with pytest.raises(PriorFileError, match="could not read gaussian"):
        GaussianWeights.from_hub("org/mine", endpoint=address, cache_dir=tmp_path / "new")


def test_a_hub_that_cannot_be_reached_is_one_line(law):
    with pytest.raises(StorageError, match="could not write 'a/b' to the hub: ") as caught:
        law.push_to_hub("a/b", endpoint="http://127.0.0.1:9", token="hf_x")
    assert "\n" not in str(caught.value)


def network(classes):
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, classes))


def test_load_into_is_mean_and_buffers_with_a_report(law):
    source, target = network(4), network(2)
    layout = ParameterLayout.from_module(source)
    buffers = {n: torch.rand(b.shape).to(b.dtype) for n, b in source.named_buffers()}
    posterior = GaussianWeights.point(layout, torch.randn(layout.dim), 0.1, buffers=buffers)
    head = target[2].weight.detach().clone()
    report = posterior.load_into(target, ignore="2")
    means = layout.unflatten(posterior.loc)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert torch.equal(target.get_parameter(name), means[name])
    for name, value in buffers.items():
        assert torch.equal(target.get_buffer(name), value)
    assert torch.equal(target[2].weight, head)
    assert report.missing == ("2.weight", "2.bias")
    assert report.summary.startswith("the law of the weights: 7 tensors taken")
    with pytest.raises(CheckpointError, match="does not fit Linear"):
        posterior.load_into(nn.Linear(9, 9))
    with pytest.warns(UserWarning, match=r"not in the file: 2 \(2\)"):
        posterior.load_into(target)
    body = posterior.marginal(n for n in layout.names if not n.startswith("2"))
    prior = body.extend(ParameterLayout.from_module(target), std=1.0)
    assert prior.load_into(target).missing == ("2.weight", "2.bias")
    assert torch.equal(target[2].weight, head)
