"""The folder of results: the contract between the runner, which writes it, and the report, which reads it.

``<folder>/results.csv`` and ``results.parquet`` hold one row per job, the newest state of each:

=================== ===================================================================================================
identity            ``job_id`` (hash of the job's configuration), ``config_hash`` (of the whole benchmark), ``status``
                    (``done`` or ``failed``), ``error`` (text, else empty)
what ran            ``model`` (a label, unique in the benchmark), ``model_class``, ``dataset``, ``category`` (normal
                    class or MVTec category), ``seed``, ``accelerator``, and the job's configuration with dotted keys
                    (``model.init_args.scorer``, ``data.init_args.root``, ...)
metrics             ``image_AUROC``, ``image_AUPR``, ``image_F1Score``, ``image_FalseAlarmRate``, ``image_MissRate``,
                    ..., in [0, 1], as the model's evaluator gives them; other models may have others
threshold           ``threshold`` (a raw distance, may be empty), ``threshold_source`` (``training images``,
                    ``validation images``, ``test images`` or empty), ``false_positive_rate`` (the one asked for)
counts              ``num_train``, ``num_test_normal``, ``num_test_anomalous``
cost                ``fit_seconds``, ``test_seconds``, ``job_seconds``, ``peak_memory_mib``, ``bank_mib``,
                    ``shared_embeddings`` (whether the embeddings came from a pass shared with other jobs),
                    ``extract_seconds`` (the job's share of that pass, contained in the times before)
provenance          ``started`` (ISO time), ``commit``, ``weights_sha256``, ``versions`` and ``machine`` (JSON text)
=================== ===================================================================================================

``jobs/<job_id>/row.json`` holds the row, ``jobs/<job_id>/scores.parquet`` one row per test image: ``image_path``,
``label`` (0 normal, 1 anomalous), ``distance`` (raw, higher is more anomalous), ``score`` (as the model gives it),
``anomalous`` (its verdict) and, where there is one, ``p_value``.

``errors.log`` holds tracebacks. ``checks.json``, where the protocol was checked, is a list of ``{"name", "dataset",
"category", "status", "value", "text", "pictures"}``: the status is ``ok``, ``warning``, ``failed`` or ``not run``, the
pictures are paths relative to the folder.

Whoever reads must bear that columns are missing, and whoever writes may add some.
"""

__all__ = ["IDENTITY", "OPTIMISTIC_SOURCE", "TEXT_COLUMNS"]

IDENTITY = ("model", "dataset", "category", "seed")
"""Columns that tell two rows of a benchmark apart."""

TEXT_COLUMNS = (
    "job_id",
    "config_hash",
    "status",
    "error",
    "model",
    "model_class",
    "dataset",
    "category",
    "accelerator",
    "threshold_source",
    "started",
    "commit",
    "weights_sha256",
    "versions",
    "machine",
)
"""Columns that are text even where they look like numbers, such as the class ``7`` or the commit ``1234567``."""

OPTIMISTIC_SOURCE = "test images"
"""A threshold from these has seen what it is measured on."""
