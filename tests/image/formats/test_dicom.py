"""DICOM through pydicom: the real file that OpenSlide refuses, and synthetic ones."""

from __future__ import annotations

import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from wsiseg.errors import MissingExtraError, UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.formats import dicom
from wsiseg.image.slide import Slide

SHAPE, TILE = (70, 100), (32, 40)  # 3 x 3 tiles


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def tiles_of(rgb):
    padded = np.zeros((96, 120, 3), np.uint8)
    padded[: SHAPE[0], : SHAPE[1]] = rgb
    return {
        (i, j): padded[i * 32 : i * 32 + 32, j * 40 : j * 40 + 40]
        for i in range(3)
        for j in range(3)
    }


def header(frames: int, syntax=ExplicitVRLittleEndian) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName = data.PatientID = "PATIENT-17"
    data.Rows, data.Columns = TILE
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = SHAPE
    data.NumberOfFrames = frames
    data.SamplesPerPixel, data.PlanarConfiguration = 3, 0
    data.PhotometricInterpretation = "RGB"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.00025]  # rows, columns, in mm
    shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.DimensionOrganizationType = "TILED_FULL"
    return data


def save(data: Dataset, path, frames) -> Slide:
    data.PixelData = b"".join(np.ascontiguousarray(f).tobytes() for f in frames)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return Slide(str(path), dicom.open_contents(path, None, None))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_full_tiling_runs_row_by_row(tmp_path, rgb, syntax):
    slide = save(header(9, syntax), tmp_path / "a.dcm", tiles_of(rgb).values())
    assert np.array_equal(slide.read_level(0, Box.of_shape(SHAPE)), rgb)
    assert slide.mpp == pytest.approx((0.5, 0.25))
    assert not [v for v in slide.properties.values() if "PATIENT" in v]


def test_focal_planes_follow_one_another(tmp_path, rgb):
    data = header(27)
    data.TotalPixelMatrixFocalPlanes = 3
    frames = [f + k for k in range(3) for f in tiles_of(rgb // 2).values()]
    slide = save(data, tmp_path / "a.dcm", frames)
    assert (slide.z, slide.z_count) == (1, 3)
    assert np.array_equal(slide.read_level(0, Box.of_shape(SHAPE)), rgb // 2 + 1)


def test_sparse_tiles_lie_where_they_say(tmp_path, rgb):
    data = header(2)
    data.DimensionOrganizationType = "TILED_SPARSE"
    places = []
    for i, j in ((2, 1), (0, 0)):
        place, item = Dataset(), Dataset()
        place.RowPositionInTotalImagePixelMatrix = i * 32 + 1
        place.ColumnPositionInTotalImagePixelMatrix = j * 40 + 1
        item.PlanePositionSlideSequence = Sequence([place])
        places.append(item)
    data.PerFrameFunctionalGroupsSequence = Sequence(places)
    tiles = tiles_of(rgb)
    slide = save(data, tmp_path / "a.dcm", [tiles[2, 1], tiles[0, 0]])
    expected = np.full_like(rgb, 255)
    expected[:32, :40], expected[64:, 40:80] = rgb[:32, :40], rgb[64:, 40:80]
    assert np.array_equal(slide.read_level(0, Box.of_shape(SHAPE)), expected)
    assert slide.levels[0].holes == 7


def test_an_unstated_order_follows_from_the_padding(tmp_path):
    # like the real file: no DimensionOrganizationType, frames down the columns, padded below
    shape, tile = (150, 200), (64, 80)
    rgb = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    padded = np.zeros((192, 240, 3), np.uint8)
    padded[:150, :200] = rgb
    tiles = {
        (i, j): padded[i * 64 : i * 64 + 64, j * 80 : j * 80 + 80]
        for i in range(3)
        for j in range(3)
    }
    for order in ([(i, j) for j in range(3) for i in range(3)], list(tiles)):
        data = header(9)
        del data.DimensionOrganizationType
        data.Rows, data.Columns = tile
        data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = shape
        slide = save(data, tmp_path / "a.dcm", [tiles[place] for place in order])
        assert np.array_equal(slide.read_level(0, Box.of_shape(shape)), rgb)


@pytest.mark.data
def test_the_real_file_has_its_tiles_in_place(slides):
    # neighbouring px differ little within a tile, and no more across the faces between tiles
    with open_slide(slides / "small_dicom.dcm") as slide:
        image = slide.read_level(0, Box((0, 0), (2500, 3000))).astype(int)
        assert slide.mpp_note.startswith("DICOM ImagedVolume")
        across = np.abs(np.diff(image, axis=1)).mean(axis=(0, 2))
        down = np.abs(np.diff(image, axis=0)).mean(axis=(1, 2))
        for steps in (across, down):
            faces = steps[499::500]
            assert faces.max() < 2 * np.median(steps)


def test_missing_frames_and_other_objects_are_refused(tmp_path, rgb):
    with pytest.raises(UnreadableSlideError, match="need 9 frames, the file has 8"):
        save(header(8), tmp_path / "a.dcm", list(tiles_of(rgb).values())[:8])
    data = header(9)
    del data.TotalPixelMatrixColumns
    with pytest.raises(UnsupportedFormatError, match="not a whole-slide image"):
        save(data, tmp_path / "b.dcm", tiles_of(rgb).values())
    data = header(9)
    data.PhotometricInterpretation = "PALETTE COLOR"
    with pytest.raises(UnsupportedFormatError, match="PALETTE COLOR"):
        save(data, tmp_path / "c.dcm", tiles_of(rgb).values())


def test_without_pydicom_the_error_names_the_extra(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.dcm"
    save(header(9), path, tiles_of(rgb).values())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"wsiseg\[dicom\]"):
        dicom.open_contents(path, None, None)
