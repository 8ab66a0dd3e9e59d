"""Sections of the stages `atlas`, `prepare` and `split`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ctplatform.config.section import Section


class LungsConfig(Section):
    """Lung mask."""

    segmenter: Literal["classical", "lungmask", "totalsegmentator"] = Field(
        default="classical",
        description="lungmask, totalsegmentator: the networks of these packages, pip install 'drasclr[NAME]'",
    )
    spacing_mm: float = Field(default=3.0, gt=0, description="working grid of the mask, mm")
    weights: str | None = Field(default=None, description="file with lungmask's weights; None: downloaded")


class RegistrationConfig(Section):
    """Affine registration of the scan's lung mask to the atlas."""

    spacing_mm: float = Field(default=4.0, gt=0, description="grid of the signed distance maps, mm")
    points: int = Field(default=10_000, gt=100, description="atlas points that the fit uses")
    iterations: int = Field(default=25, gt=0)


class SamplingConfig(Section):
    """Patches at atlas locations."""

    geometry: Literal["centre", "published"] = "centre"
    axes: Literal["lps", "atlas"] = Field(
        default="lps", description="patch axes and scale: the scan's own mm, or as the affine takes the atlas"
    )
    interpolation: Literal["bspline", "linear"] = "bspline"


class QualityConfig(Section):
    """Thresholds of a scan's verdict: beyond `reject_*` it is rejected, beyond `flag_*` flagged."""

    reject_dice: float = 0.55
    flag_dice: float = 0.70
    flag_side_dice: float = 0.60
    reject_volume_l: tuple[float, float] = (0.8, 12.0)
    flag_volume_l: tuple[float, float] = (1.5, 9.0)
    flag_side_ratio: tuple[float, float] = (0.6, 2.0)
    flag_singular_values: tuple[float, float] = (0.55, 1.5)
    flag_determinant: float = 0.35
    flag_cut_cm2: float = 20.0
    reject_cut_cm2: float = 150.0
    reject_air_hu: tuple[float, float] = (-1080.0, -900.0)
    flag_air_hu: tuple[float, float] = (-1060.0, -930.0)
    flag_mirrored: float = Field(default=0.75, description="probability that left and right are swapped")
    reject_mirrored: float = 0.95
    flag_opaque: float = Field(
        default=0.1, description="share of a lung's inside, as the atlas has it, that is as dense as tissue"
    )
    flag_base_step_mm: float = Field(default=50.0, description="by which one lung ends higher than the other")
    flag_inside: float = 0.9
    reject_inside: float = 0.5
    use_flagged: bool = Field(
        default=True, description="whether flagged scans are pretrained on and evaluated"
    )

    @model_validator(mode="after")
    def _ranges(self) -> QualityConfig:
        for name, value in self:
            if isinstance(value, tuple) and not value[0] < value[1]:
                raise ValueError(f"{name} is (low, high), not {list(value)}")
        return self


class AtlasConfig(Section):
    """The lung-mask template and its grid of locations."""

    source: str = Field(
        "build", description="'build' from the cohort, or a folder / NIfTI file with a template"
    )
    patch_size: int = Field(default=32, gt=4, description="voxels of 1 mm a side")
    step: int = Field(
        default=26, gt=0, description="distance of neighbouring locations, voxels of the atlas grid"
    )
    min_lung_fraction: float = Field(default=0.1, gt=0, lt=1)
    neighbours: int = Field(default=2, ge=0)
    block_size: int = Field(default=32, gt=0, description="locations a block, about")
    max_scans: int = Field(default=64, gt=0, description="scans that the built template is the mean of")
    iterations: int = Field(default=2, gt=0)


class ShardsConfig(Section):
    """How shards are stored. Patches and readers are the same; scans that are prepared already keep theirs."""

    compression: Literal["fast", "small"] = Field(
        default="fast",
        description="small: about half of the disk, six times the CPU time to read",
    )


class PrepareConfig(Section):
    """Ray Data: cohort to shards."""

    hu_window: tuple[int, int] = Field(default=(-1024, 240), description="HU that become 0 and 1")
    lungs: LungsConfig = LungsConfig()
    registration: RegistrationConfig = RegistrationConfig()
    sampling: SamplingConfig = SamplingConfig()
    quality: QualityConfig = QualityConfig()
    shards: ShardsConfig = ShardsConfig()
    num_cpus: float = Field(default=1.0, gt=0, description="CPUs a scan")
    memory_gb: float = Field(default=0.0, ge=0, description="memory reserved a scan; 0 reserves none")
    prefetch: int = Field(
        default=1,
        ge=0,
        description="series of public buckets that are fetched ahead for each scan in preparation",
    )
    overlays: bool = True
    max_seconds: float = Field(
        default=1800.0, gt=0, description="for one scan; a worker that takes longer is ended, the scan failed"
    )
    max_voxels: int = Field(
        default=1 << 30,
        gt=0,
        description="of a scan, by its header; a larger one is refused before it is read",
    )
    max_bytes_unpacked: int = Field(
        default=8 << 30, gt=0, description="of a packed file's content; a larger one is refused"
    )

    @model_validator(mode="after")
    def _window(self) -> PrepareConfig:
        if not self.hu_window[0] < self.hu_window[1]:
            raise ValueError(f"hu_window is (low, high), not {list(self.hu_window)}")
        return self


class SplitConfig(Section):
    """Subject-level split, stratified; stored before pretraining, which never sees a test subject."""

    test_fraction: float = Field(default=0.35, gt=0, lt=1)
    alike_above: float = Field(
        default=0.7,
        gt=0,
        description="correlation of lung density above which scans of different subjects count as one; 1: none do",
    )
    seed: int = 0
    stratify: str | None = Field(default=None, description="label column; None: by lung density (LAA-950)")
    balance: tuple[str, ...] = Field(
        default=(),
        description="columns whose classes are held out in their share, e.g. [kernel, manufacturer, site]",
    )
