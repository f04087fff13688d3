"""The program behind Trainer's initializer images."""

import sys

import pytest

from kubarium.labs import initializer


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run it with a workspace of its own; what it printed."""
    real = initializer.Path

    def path(text):
        return real(tmp_path / "workspace") if text == "/workspace" else real(text)

    monkeypatch.setattr(initializer, "Path", path)

    def main(step, uri, **env):
        monkeypatch.setenv("STORAGE_URI", uri)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["initializer", step])
        initializer.main()
        return capsys.readouterr().out

    return main


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.csv").write_text("1,2\n")
    (folder / "weights.bin").write_bytes(b"\0")
    return folder


def test_a_folder_is_copied_whole(run, source, tmp_path):
    assert "2 files" in run("dataset", f"file://{source}")
    assert (tmp_path / "workspace/dataset/data/train.csv").read_text() == "1,2\n"


def test_models_leave_out_what_the_images_leave_out(run, source, tmp_path):
    run("model", f"file://{source}")
    assert not (tmp_path / "workspace/model/weights.bin").exists()


def test_patterns_of_the_trainjob_win(run, source, tmp_path):
    run("dataset", f"file://{source}", IGNORE_PATTERNS="*.csv, *.txt")
    assert [p.name for p in (tmp_path / "workspace/dataset").iterdir()] == ["weights.bin"]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "must be set"),
        ("s3://bucket/x", "unsupported scheme 's3'"),
        ("file:///not/there", "no folder"),
    ],
)
def test_what_it_cannot_fetch_it_says(run, uri, says):
    with pytest.raises(SystemExit, match=says):
        run("dataset", uri)


def test_the_hub_is_asked_as_the_images_ask_it(run, monkeypatch):
    asked = []

    class Hub:
        @staticmethod
        def snapshot_download(**options):
            asked.append(options)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    run("dataset", "hf://tatsu-lab/alpaca/main", ACCESS_TOKEN="t")
    run("model", "hf://meta/llama")
    data, model = asked
    assert (data["repo_id"], data["repo_type"], data["token"]) == (
        "tatsu-lab/alpaca",
        "dataset",
        "t",
    )
    assert model["repo_id"] == "meta/llama"
    assert "*.safetensors" in model["allow_patterns"]


def test_without_the_hubs_package_it_names_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit, match="pip install huggingface_hub"):
        run("model", "hf://meta/llama")
