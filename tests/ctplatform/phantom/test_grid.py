"""Resampling between grids."""

from __future__ import annotations

import numpy as np

from ctplatform.phantom.grid import Box, Frame, resample, rotation, smooth_field


def test_resampling_is_exact_for_linear_fields() -> None:
    coarse = Box(np.full(3, -50.0), np.full(3, 5.0), np.array([21, 21, 21]))
    fine = Box(np.array([-31.0, -28.5, -30.2]), np.array([1.7, 1.9, 2.3]), np.array([30, 25, 20]))
    weights, offset = (0.3, -0.2, 0.7), 4.0
    got = resample(coarse.linear(weights, offset), coarse, fine)
    np.testing.assert_allclose(got, fine.linear(weights, offset), atol=1e-3)


def test_points_go_to_the_scan_and_back() -> None:
    """Body coordinates at a coarse voxel lead back to the voxel; one fixed-point step undoes most of the warp."""
    frame = Frame.posed(
        turn=rotation((3.0, -2.0, 5.0)),
        offset=np.array([1.0, 12.0, 140.0]),
        reach=(100.0, 80.0, 120.0),
        warp_mm=3.0,
        rng=np.random.default_rng(0),
    )
    body = np.stack(frame.body_coordinates(), axis=-1)
    index = np.random.default_rng(1).integers(2, np.array(frame.coarse.shape) - 2, (200, 3))
    scan = frame.coarse.start + index[:, ::-1] * frame.coarse.spacing
    body = body[tuple(index.T)]
    warp = np.linalg.norm(body - (scan @ frame.turn.T + frame.offset), axis=1)
    error = np.linalg.norm(frame.to_scan(body) - scan, axis=1)
    assert warp.mean() > 1.0
    assert error.mean() < 0.25 * warp.mean()
    rigid = Frame(frame.turn, frame.offset, frame.coarse, np.zeros_like(frame.warp_3ZYX))
    np.testing.assert_allclose(rigid.to_scan(scan @ frame.turn.T + frame.offset), scan, atol=1e-9)


def test_parts_of_a_box_lie_where_their_slices_say() -> None:
    box = Box(np.array([-10.0, 5.0, 0.0]), np.array([1.0, 2.0, 3.0]), np.array([30, 20, 10]))
    values = box.linear((1.0, 10.0, 100.0))
    part, where = box.part(np.array([-3.2, 9.0, 5.0]), np.array([4.1, 20.0, 300.0]))
    np.testing.assert_allclose(part.linear((1.0, 10.0, 100.0)), values[where], atol=1e-3)
    assert part.start[0] <= -3.2
    assert part.axis(0)[-1] >= 4.1
    assert part.axis(2)[-1] == box.axis(2)[-1]


def test_smooth_fields_have_their_length() -> None:
    box = Box(np.zeros(3), np.full(3, 4.0), np.array([60, 60, 60]))
    short, long = (smooth_field(box, length_mm=mm, rng=np.random.default_rng(2)) for mm in (12.0, 48.0))
    for field in (short, long):
        assert abs(field.mean()) < 0.25
        assert 0.7 < field.std() < 1.3
    steps = [float(np.abs(np.diff(field, axis=0)).mean()) for field in (short, long)]
    assert steps[0] > 2.5 * steps[1]
