"""Columns of predictions, and rows of given scans; test_kept_heads and cli/test_predict have the rest."""

import numpy as np
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.kept_model import KeptModel
from ctplatform.inference.predict import predict_embedded, predictions
from ctplatform.inference.scan_embedding import EmbeddedScan
from ctplatform.tasks.fitted_head import FittedHead

FEATURES = {"encoder": "density", "width": 3}


def model(kind: str = "regression", *, width: int = 3, **head) -> KeptModel:
    card = {"task": {"name": "mine"}, "features": FEATURES | {"width": width}, "curve_times": [5.0, 15.0]}
    return KeptModel(FittedHead(kind, np.ones(width), 0.0, **head), card)


def scan(scan_id: str, **row) -> EmbeddedScan:
    return EmbeddedScan({"scan_id": scan_id, "subject_id": "s", "state": "accepted", **row}, None)


def test_survival_has_risk_and_a_falling_curve():
    head = model("survival", times_T=np.array([10.0]), hazard_T=np.array([0.5]))
    table = predictions(head, np.array([[0.0, 0, 0], [np.log(2), 0, 0]]))
    assert list(table) == ["prediction", "risk", "survival_5", "survival_15"]
    assert table["risk"].tolist() == pytest.approx([1, 2])
    assert table["survival_5"].tolist() == [1, 1]
    assert table["survival_15"].tolist() == pytest.approx([np.exp(-0.5), np.exp(-1.0)])


def test_without_a_calibration_there_is_no_interval():
    assert list(predictions(model(), np.ones((2, 3)))) == ["prediction"]


def test_scans_without_a_vector_keep_their_row_and_reason():
    failed = scan("bad", state="failed", reason="no lungs were found")
    table = predict_embedded(model(), [failed])
    assert table["reason"].tolist() == ["no lungs were found"]
    assert table["prediction"].isna().all()
    with pytest.raises(KeyError):
        table["low"]


def test_vectors_of_another_width_are_refused():
    from types import SimpleNamespace

    embedded = EmbeddedScan(
        {"scan_id": "a", "laa950": 0.1, "perc15": -900.0, "volume_l": 5.0},
        SimpleNamespace(patient_P=np.ones(4, np.float32)),
    )
    assert predict_embedded(model(), [embedded])["prediction"][0] == pytest.approx(0.1 - 900 + 5)
    with pytest.raises(StageError, match="number of features 4, here 3"):
        predict_embedded(model(width=4), [embedded])
