"""Whatever a program has left in its folder, it can be removed."""

import os

import pytest

from kubarium.base.trees import remove_tree


def nest(place, levels, name="d" * 40):
    """Folders in one another, deeper than any path may be long."""
    folder = os.open(place, os.O_RDONLY)
    for level in range(levels):
        os.mkdir(name, dir_fd=folder)
        deeper = os.open(name, os.O_RDONLY, dir_fd=folder)
        if level % 50 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=deeper))
        os.close(folder)
        folder = deeper
    os.close(folder)


def test_folders_nested_deeper_than_the_stack_go(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    for side in range(2):
        nest(place, 2500, f"{side}" * 40)
    (place / ".removed-0").write_text("a name of ours that somebody else has taken")
    remove_tree(place)
    assert not place.exists()


def test_strange_names_and_links_go_and_links_are_not_followed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    place = tmp_path / "place"
    place.mkdir()
    (place / "to-a-folder").symlink_to(kept)
    (place / "to-nothing").symlink_to("/no/such/file")
    for name in (b"\xff\xfe", b"-rf", b"a\nb"):
        os.close(os.open(os.fsencode(place) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    os.mkfifo(place / "pipe")
    remove_tree(place)
    assert not place.exists()
    assert (kept / "file").exists()
    link = tmp_path / "link"
    link.symlink_to(kept)
    remove_tree(link)
    assert not link.is_symlink()
    assert (kept / "file").exists()


def test_folders_that_may_not_be_read_go(tmp_path):
    place = tmp_path / "place"
    (place / "closed" / "within").mkdir(parents=True)
    (place / "closed" / "within" / "file").touch()
    (place / "closed" / "within").chmod(0)
    (place / "closed").chmod(0o500)
    if os.geteuid() != 0:
        remove_tree(place)
    else:
        pid = os.fork()
        if pid == 0:  # root may read everything: as a user who owns it
            for path in (tmp_path, place, place / "closed", place / "closed" / "within"):
                os.chown(path, 65534, 65534)
            os.chdir(tmp_path)
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            remove_tree("place")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert not place.exists()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_what_is_no_folder(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    remove_tree(place)
    assert not place.exists()
