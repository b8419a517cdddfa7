"""The reader's own images, from a folder and by upload, and what a recorded network says about them."""

from __future__ import annotations

from datetime import datetime

import pytest
import torch
from PIL import Image

from dfs_edu.widgets import photos

JOINT = "cifar100-vgg7-64-lesson-joint-seed0"


def test_own_images_are_read_from_a_folder(tmp_path):
    for name, size in (("b.PNG", (64, 48)), ("a.jpg", (200, 100))):
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    names, images = photos.own_images(tmp_path)
    assert names == ["a", "b"]
    assert (images.shape, images.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert images[1, :, 5, 5].tolist() == [10, 200, 30]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        photos.own_images(tmp_path / "nowhere")


def test_what_each_exit_says_about_own_images():
    names, images = photos.own_images()
    assert (len(names), images.shape[1:]) == (4, (3, 32, 32))
    fig = photos.verdicts(JOINT, names, images)
    said = [note.text for note in fig.layout.annotations]
    assert said[0] == names[0]
    assert "pine tree" in said[6]  # what the last exit takes the tower for
    with pytest.raises(FileNotFoundError, match="weights"):
        photos.verdicts(JOINT.replace("seed0", "seed1"), names, images)


def test_uploaded_images_are_answered_below_the_button(tmp_path):
    box = photos.upload(JOINT)
    button, shown = box.children
    assert shown.value == ""
    Image.new("RGB", (64, 48), (10, 200, 30)).save(tmp_path / "a.png")
    file = {"name": "<mine>.png", "type": "image/png", "size": 1, "last_modified": datetime(2026, 1, 1)}
    button.value = ({**file, "content": memoryview((tmp_path / "a.png").read_bytes())},)
    assert shown.value.count("<td") == 6
    assert "&lt;mine&gt;.png" in shown.value
    button.value = ({**file, "content": memoryview(b"GIF89a")},)
    assert shown.value.startswith("<p>&lt;mine&gt;.png: not a readable image")
