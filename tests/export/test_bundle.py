import json
import os

import pytest

from slimtask.errors import CheckFailed, InputError
from slimtask.export.bundle import MANIFEST, Bundle


def edit_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_bundle_verifies_and_lists_its_parts(exported, net):
    bundle = Bundle.open(exported)
    bundle.verify()
    assert bundle.damage() == ()
    assert [task.name for task in bundle.manifest.tasks] == [task.name for task in net.tasks]
    assert {artifact.role for artifact in bundle.artifacts("onnx")} == {"fused", *(task.name for task in net.tasks)}
    assert {file.path for file in bundle.manifest.files} | {MANIFEST} == set(os.listdir(exported))
    assert bundle.read(bundle.file("weights.bin")) == (exported / "weights.bin").read_bytes()


@pytest.mark.parametrize("name", ["weights.bin", "fused.onnx", "depth.tensorrt-rtx.engine"])
def test_a_changed_byte_is_named_and_never_returned(bundle_dir, name):
    flip_byte(bundle_dir / name)
    bundle = Bundle.open(bundle_dir)
    with pytest.raises(CheckFailed, match=f"'{name}' has changed"):
        bundle.verify()
    with pytest.raises(InputError, match=f"'{name}' has changed"):
        bundle.read(bundle.file(name))


def test_missing_extra_and_truncated_files_are_each_named(bundle_dir):
    (bundle_dir / "depth.onnx").unlink()
    (bundle_dir / "nested").mkdir()
    (bundle_dir / "nested" / "evil.so").write_bytes(b"x")
    os.truncate(bundle_dir / "weights.bin", 100)
    with pytest.raises(CheckFailed) as failure:
        Bundle.open(bundle_dir).verify()
    for phrase in ("'depth.onnx' is missing", "'nested/evil.so' is an extra file", "'weights.bin' has 100 bytes"):
        assert phrase in str(failure.value)
    assert failure.value.exit_status == 1


@pytest.mark.parametrize(
    "path", ["../secret.bin", "/etc/passwd", "a/../../x", "a\\..\\x", ".hidden", "", "a//b", "x\n"]
)
def test_a_path_outside_the_bundle_is_refused(bundle_dir, path):
    edit_manifest(bundle_dir, lambda manifest: manifest["data"][0].update(path=path))
    with pytest.raises(InputError, match=r"not valid at data\.0\.path"):
        Bundle.open(bundle_dir)


def test_a_link_inside_the_bundle_is_refused(bundle_dir, tmp_path):
    (bundle_dir / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (bundle_dir / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(InputError, match=r"'weights\.bin' .* leads outside"):
        Bundle.open(bundle_dir)


def test_a_linked_folder_inside_the_bundle_is_refused(bundle_dir, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(b"w")
    (bundle_dir / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckFailed, match="'sub' is an extra file"):
        Bundle.open(bundle_dir).verify()
    edit_manifest(bundle_dir, lambda manifest: manifest["data"][0].update(path="sub/w.bin"))
    with pytest.raises(InputError, match=r"not valid|leads outside"):
        Bundle.open(bundle_dir)


def test_a_pipe_in_place_of_a_file_does_not_hang(bundle_dir):
    (bundle_dir / "weights.bin").unlink()
    os.mkfifo(bundle_dir / "weights.bin")
    with pytest.raises(CheckFailed, match="not a regular file"):
        Bundle.open(bundle_dir).verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema version 2, this slimtask reads 1"),
        (lambda m: m.update(surprise=1), "not valid at surprise"),
        (lambda m: m.pop("outputs"), "not valid at outputs"),
        (lambda m: m["data"].append(m["data"][0]), "listed twice"),
        (lambda m: m["artifacts"][0].update(tasks=["pose"]), "unknown"),
        (lambda m: m["artifacts"][0].update(data=["other.bin"]), "unknown"),
        (lambda m: m["artifacts"][1].update(role="depth"), "serves"),
        (lambda m: m["outputs"].reverse(), "same names"),
        (lambda m: m["artifacts"][0].update(bytes=-1), r"artifacts\.0\.bytes"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_in_one_sentence(bundle_dir, change, message):
    edit_manifest(bundle_dir, change)
    with pytest.raises(InputError, match=message) as failure:
        Bundle.open(bundle_dir)
    assert "\n" not in str(failure.value)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    with pytest.raises(InputError, match="is not a directory"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(InputError, match="has no regular file manifest"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(InputError, match="schema version None"):
        Bundle.open(tmp_path)
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(2**25)
    with pytest.raises(InputError, match="more than the"):
        Bundle.open(tmp_path)


def test_an_unknown_file_is_refused(exported):
    with pytest.raises(InputError, match=r"lists no file 'other\.bin'"):
        Bundle.open(exported).file("other.bin")


def test_deep_and_other_manifests_are_one_sentence(bundle_dir):
    for content in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 1000 + b"1" + b"}" * 1000, b"9" * 5000, b"\xff\xfe{}"):
        (bundle_dir / MANIFEST).write_bytes(content)
        with pytest.raises(InputError) as failure:
            Bundle.open(bundle_dir)
        assert "\n" not in str(failure.value)
