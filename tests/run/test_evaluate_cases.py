"""Cases: manifests and centres as they stand on disk, and what is wrong with those that are not."""

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import InputFileError
from wsiseg.run.evaluate_cases import (
    cases_of_manifest,
    cases_of_points,
    class_table,
    of_split,
    read_truth,
)
from wsiseg.training.readers.centres import read as read_points
from wsiseg.training.readers.classes import ClassMap
from wsiseg.training.readers.manifest import read as read_manifest
from wsiseg.training.readers.reading import Reading

HEAD = "image,labels,set,split,mpp,case\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (13, 11)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.eye(11, 13, dtype=np.uint16)).save(tmp_path / f"{name}_labels.png")
    return tmp_path


def manifest(folder, *rows, head=HEAD):
    path = folder / "manifest.csv"
    path.write_text(head + "".join(row + "\n" for row in rows))
    return path


def test_rows_become_cases(folder):
    path = manifest(folder, "a.png,a_labels.png,s,val,0.25,p1", "b.png,b_labels.png,t,train,,")
    first, second = cases_of_manifest(path)
    assert (first.name, first.set, first.split, first.case, first.mpp) == (
        *("a.png", "s", "val", "p1"),
        0.25,
    )
    assert (second.mpp, second.case) == (None, "b.png")
    assert first.truth == folder / "a_labels.png"
    assert not first.centres


def test_columns_that_are_not_there_have_defaults(folder):
    (case,) = cases_of_manifest(manifest(folder, "a.png,a_labels.png", head="image,labels\n"))
    assert (case.set, case.split, case.case, case.mpp) == (folder.name, "", "a.png", None)
    assert of_split([case], "val") == [case]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.png,a_labels.png,s,val,0.25,p", r"line 2: .*c\.png does not exist"),
        ("a.png,c_labels.png,s,val,0.25,p", r"c_labels\.png does not exist"),
        ("a.png,,s,val,0.25,p", "line 2: image and labels"),
        ("a.png,a_labels.png,s,val,fine,p", "mpp must be a number, got 'fine'"),
        ("a.png,a_labels.png,s,val,250,p", "250 µm per px cannot be"),
    ],
)
def test_rows_that_cannot_be_are_named(folder, row, message):
    with pytest.raises(InputFileError, match=message):
        cases_of_manifest(manifest(folder, row))


def test_manifests_that_are_none_are_named(folder):
    with pytest.raises(InputFileError, match="image missing, the first line has picture, labels"):
        cases_of_manifest(manifest(folder, "a.png,b", head="picture,labels\n"))
    with pytest.raises(InputFileError, match=r"none\.csv: no such file"):
        cases_of_manifest(folder / "none.csv")
    with pytest.raises(InputFileError, match="not a CSV table"):
        cases_of_manifest(folder / "a.png")


def test_a_manifest_is_read_as_training_reads_it(folder):
    """Semicolons, capitals, blanks and the column patient: one file serves both."""
    row = "sub\\a.png; sub\\a_labels.png ;Validation; p1;0.25"
    path = manifest(folder, row, head="Image;Labels;Split;Patient;MPP\n")
    (folder / "sub").mkdir()
    for name in ("a.png", "a_labels.png"):
        (folder / name).rename(folder / "sub" / name)
    (case,) = cases_of_manifest(path)
    (item,) = read_manifest(folder, Reading(ClassMap(("x",)), folder.name))
    assert (case.split, case.case, case.mpp) == ("val", "p1", 0.25)
    assert (case.set, case.split, case.case, case.mpp) == (
        item.set,
        item.split,
        item.case,
        item.mpp,
    )
    assert case.image == folder / "sub" / "a.png"
    with pytest.raises(InputFileError, match="line 2: expected 5 cells, got 3"):
        cases_of_manifest(manifest(folder, "a;b;c", head="Image;Labels;Split;Patient;MPP\n"))


@pytest.mark.parametrize("asked", ["val", "Validation", "valid"])
def test_splits_are_chosen_and_named_as_in_training(folder, asked):
    path = manifest(folder, "a.png,a_labels.png,s,validation,1,p", "b.png,b_labels.png,s,Train,1,q")
    cases = cases_of_manifest(path)
    assert [case.name for case in of_split(cases, asked)] == ["a.png"]
    assert of_split(cases, "all") == cases
    with pytest.raises(InputFileError, match="split 'test': there are train, val"):
        of_split(cases, "test")


def test_an_image_that_stands_there_twice_is_refused(folder):
    path = manifest(folder, "a.png,a_labels.png,s,val,1,p", "a.png,b_labels.png,s,val,1,q")
    with pytest.raises(InputFileError, match=r"a\.png stands in the manifest twice"):
        of_split(cases_of_manifest(path), "val")


def test_classes_stand_beside_the_image_or_the_labels(folder):
    (case,) = cases_of_manifest(manifest(folder, "a.png,a_labels.png", head="image,labels\n"))
    assert read_truth(case).classes == {}
    (folder / "a_types.csv").write_text("id,class\n1,fibroblast\n7,\n9,x\n")
    assert read_truth(case).classes == {1: "spindle", 9: "x"}
    assert read_truth(case, {"x": "y"}).classes == {1: "fibroblast", 9: "y"}
    (folder / "a_types.csv").write_text("id,class\none,x\n")
    with pytest.raises(InputFileError, match=r"a_types\.csv, line 2: id must be a number"):
        class_table([folder / "a.png"])
    (folder / "a_types.csv").write_text("id,class\n1,x\n1,y\n")
    with pytest.raises(InputFileError, match="line 3: id must be a whole number above 0, each"):
        class_table([folder / "a.png"])
    (folder / "a_types.csv").write_text("id;class\n1;x\n2;y\n")
    assert class_table([folder / "a.png"], {"x": ""}) == {2: "y"}  # renamed to nothing: unknown


def test_centres_are_read_corner_based_with_their_classes(folder):
    (folder / "a.csv").write_text("y,x,class,split\n1,2.5,others,validation\n3,4,,validation\n")
    (case,) = cases_of_points(folder, 0.55)
    truth = read_truth(case)
    assert (case.split, case.mpp, case.case, case.centres) == ("val", 0.55, "a", True)
    assert truth.centres.tolist() == [[1.5, 3.0], [3.5, 4.5]]
    assert truth.classes == ("other", None)
    assert truth.objects is None


def test_centres_count_from_1_where_one_of_the_folder_lies_beyond_the_last_pixel(folder):
    """As in training, whose reader decides it: of 11 x 13 px the last is at (10, 12)."""
    (folder / "a.csv").write_text("y,x,type\n1,2.5,x\n3,4,\n")
    (folder / "b.csv").write_text("y,x,type\n5,12.4,x\n")
    (folder / "a_labels.png").unlink()
    (folder / "b_labels.png").unlink()
    for last, origin in (("12.4", 0), ("13", 1)):
        (folder / "b.csv").write_text(f"y,x,type\n5,{last},x\n")
        cases = cases_of_points(folder, 0.55)
        assert [case.origin for case in cases] == [origin, origin]
        read = [read_truth(case).centres for case in cases]
        assert read[0].tolist() == [[1.5 - origin, 3.0 - origin], [3.5 - origin, 4.5 - origin]]
        items = read_points(folder, Reading(ClassMap(("x",)), "s"))
        for points, item in zip(read, items, strict=True):
            inside = np.clip(points - 0.5, 0, (10, 12))
            assert np.array_equal(inside, item.centres.points)
    (folder / "b.csv").write_text("y,x\n5,14\n")
    with pytest.raises(InputFileError, match=r"b\.csv, line 2: .* not on the image of 11 x 13"):
        cases_of_points(folder, 0.55)


def test_folders_without_centres_are_named(folder, tmp_path):
    with pytest.raises(InputFileError, match="no image"):
        cases_of_points(folder, 0.5)
    with pytest.raises(InputFileError, match="expected a folder"):
        cases_of_points(tmp_path / "nowhere", 0.5)


def test_keys_stay_inside_a_folder(folder):
    path = manifest(folder, f"{folder / 'a.png'},a_labels.png,s,val,1,p")
    (case,) = cases_of_manifest(path)
    assert not case.key.is_absolute()
    path = manifest(folder, f"../{folder.name}/a.png,a_labels.png,s,val,1,p")
    (case,) = cases_of_manifest(path)
    assert case.key.parts == (folder.name, "a")


@pytest.mark.data
def test_the_shared_manifest_and_centres_are_read(data):
    cases = of_split(cases_of_manifest(data / "nuclei" / "manifest.csv"), "val")
    assert {case.set for case in cases} == {"gbm40", "lgg", "kumar", "consep", "dsb_colour"}
    consep = [read_truth(case) for case in cases if case.set == "consep"]
    names = {name for truth in consep for name in truth.classes.values()}
    assert names == {"epithelial", "inflammatory", "spindle", "other"}
    assert all(set(np.unique(truth.objects)) - {0} <= set(truth.classes) for truth in consep)
    points = of_split(cases_of_points(data / "points" / "crchisto", 0.55), "val")
    assert len(points) == 10
    assert all(case.origin == 1 for case in points)
    classes = {name for case in points for name in read_truth(case).classes}
    assert classes == {"epithelial", "inflammatory", "spindle", "other", None}
