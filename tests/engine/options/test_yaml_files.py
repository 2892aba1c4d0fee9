"""YAML that hides a mistake, or is made to break its reader, is one line."""

import os

import pytest

from distilplace.common.errors import UserError
from distilplace.engine.options.yaml_files import read_typed_yaml, read_yaml

BOMB = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*{'a' if i == 0 else f'b{i - 1}'}, *a]\n" for i in range(30))
REFUSED = {
    "a duplicate": ("epochs: 3\nseed: 1\nepochs: 4\n", "line 3: epochs twice: keep one"),
    "a quoted duplicate": ("epochs: 3\n'epochs': 4\n", "line 2: epochs twice"),
    "a duplicate below": ("oxford:\n  seed: 1\n  seed: 2\n", "line 3: seed twice"),
    "flow sequences": ("a: " + "[" * 2000 + "]" * 2000, "nested deeper than 10 levels"),
    "flow mappings": ("a: " + "{b: " * 2000 + "1" + "}" * 2000, "nested deeper than 10 levels"),
    "open brackets": ("[" * 2000, "nested deeper than 10 levels"),
    "block mappings": ("".join(f"{' ' * i}a:\n" for i in range(1000)), "nested deeper than 10 levels"),
    "an alias bomb": (BOMB, "aliases are not read here"),
    "a recursive alias": ("a: &a [*a]", "aliases are not read here"),
    "a merge": ("a: &a {b: 1}\nc:\n  <<: *a\n", "aliases are not read here"),
    "a tab": ("epochs: 3\n\tseed: 1\n", "tab"),
    "a tab in front": ("\tseed: 1\n", "spaces, not tabs"),
    "a list as a name": ("? [a, b]\n: 1\n", "a list or mapping as a name"),
    "a list": ("- epochs\n- seed\n", "must hold 'option: value' lines"),
    "a word": ("epochs", "must hold 'option: value' lines"),
    "two documents": ("a: 1\n---\nb: 2\n", "another document"),
    "a null byte": ("a: \0", "not valid YAML"),
    "an open quote": ('a: "x', "not valid YAML"),
    "a lone surrogate": ('a: "\\ud800"\nb: [', "not valid YAML"),
}


@pytest.mark.parametrize("read", [read_yaml, read_typed_yaml])
@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_in_one_short_line(tmp_path, read, text, said):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_what_people_write_is_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("# recipe\nmilestones: 40_80\nkd: [pkt:1, sp:2]\nscales:\n- 1\n- 0.5\noxford:\n  seed: 1\nempty:\n")
    expected = {"milestones": "40_80", "kd": ["pkt:1", "sp:2"], "scales": ["1", "0.5"], "oxford": {"seed": "1"}}
    assert read_yaml(path) == {**expected, "empty": ""}
    path.write_bytes("\ufeffname: Zürich\n".encode())
    assert read_yaml(path) == {"name": "Zürich"}
    path.write_text("epochs: 3\nrate: 1.0e-08\nname: null\nkd: []\n")
    assert read_typed_yaml(path) == {"epochs": 3, "rate": 1e-8, "name": None, "kd": []}
    path.write_text("")
    assert read_yaml(path) == {}


def test_what_is_no_file_of_options_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_text("a: 1\n" + "#" * 1_000_000)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xfc\n")
    for name, said in (
        ("pipe", "is not a file"),
        ("folder", "is not a file"),
        ("large", "kB"),
        ("latin", "valid YAML"),
    ):
        with pytest.raises(UserError, match=said):
            read_yaml(tmp_path / f"{name}.yaml")
    with pytest.raises(UserError, match=r"cannot read .*gone"):
        read_yaml(tmp_path / "gone.yaml")
