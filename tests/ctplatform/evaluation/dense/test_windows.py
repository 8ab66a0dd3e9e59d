"""Windows that slide over the lungs."""

import numpy as np

from ctplatform.evaluation.dense.lung_volume import LungVolume
from ctplatform.evaluation.dense.windows import cut, density, windows_of


def test_every_voxel_of_lung_belongs_to_one_window(real_volume):
    volume = real_volume[3]
    for stride in (8, 24, 32):
        windows = windows_of(volume.lungs_ZYX, stride=stride)
        assert windows.count(volume.lungs_ZYX).sum() == volume.lungs_ZYX.sum()
        painted = windows.paint(np.arange(1, len(windows) + 1), volume.lungs_ZYX)
        np.testing.assert_array_equal(painted > 0, volume.lungs_ZYX)
        window = windows.corners_M3[len(windows) // 2]
        cell = np.argwhere(painted == len(windows) // 2 + 1)
        assert (cell >= window).all()
        assert (cell < window + 32).all()
        assert windows.corners_M3.min() >= 0


def test_windows_reach_into_air_beyond_the_upper_faces():
    hu = np.full((40, 40, 40), -700, np.int16)
    hu[0, 0, 0] = -1024  # air
    window = cut(hu, np.array([[20, 20, 20]]))[0]
    assert window.shape == (32, 32, 32)
    assert (window[:20, :20, :20] == -700).all()
    assert (window[20:] == -1024).all()


def test_the_density_baseline_is_of_a_windows_lung_only():
    hu, lungs = np.full((64, 64, 64), 40, np.int16), np.zeros((64, 64, 64), bool)
    lungs[16:48, 16:48, 16:48] = True
    hu[lungs] = -800
    hu[16:32, 16:48, 16:48] = -1000
    volume = LungVolume(hu, lungs, np.eye(4), np.eye(4))
    windows = windows_of(lungs, stride=32)
    assert windows.corners_M3.tolist() == [[16, 16, 16]]
    laa950, perc15, mean_hu, lung = density(volume, windows)[0]
    assert (laa950, perc15, mean_hu, lung) == (0.5, -1000, -900, 1)


def test_some_windows_are_those_of_their_rows():
    lungs = np.zeros((64, 64, 64), bool)
    lungs[16:48, 16:48, 16:48] = True
    windows = windows_of(lungs, stride=16)
    some = windows.take(np.array([3, 1]))
    assert len(windows) == 8
    np.testing.assert_array_equal(some.centres_M3, windows.centres_M3[[3, 1]])
    assert some.count(lungs).tolist() == [16**3] * 2
