"""What has a time series classifier learned? Activation maximization (Sequence Dreaming) for torch models.

Written by hand, unlike the other modules: each part is imported on first use (PEP 562), so that `import seqdream` costs nothing.
"""
import importlib

_parts = {
    "data": ["Dataset", "Physical", "available_datasets", "check_series", "load_dataset", "z_normalise"],
    "models": ["Adapter", "FCN", "InceptionTime", "NETWORKS", "PRESETS", "ResNet", "make_model", "accuracy", "load_model", "predict", "save_model"],
    "training": ["Augment", "fit", "plot_history"],
    "activations": ["Probe", "Reference", "load_pretrained", "pretrained_models"],
    "objectives": ["Objective", "class_margin", "climb", "direction", "margin", "reach", "region_target", "score", "tie", "typical"],
    "transforms": ["Clamp", "ClampSpectrum", "ExponentialSmoothing", "GaussianBlur", "L2Decay", "MovingAverage", "NoiseOnOvershoot", "NoiseOnStall", "Jitter", "RandomRestart", "RandomScaling", "TrustRegion", "UnitGradient", "clamp_spectrum_to", "clamp_to", "trust_region"],
    "penalties": ["AlphaNorm", "Band", "Diversity", "Smoothness", "TotalVariation", "amplitude_spectrum", "band"],
    "parametrizations": ["Fourier", "Hold", "Phase", "Time", "Wavelet", "Whitened"],
    "dreaming": ["Dreams", "dream"],
    "methods": ["CONTROLS", "METHODS", "control", "ellis", "gradient_ascent", "grounded_dreaming", "median_spectrum", "sequence_dreaming", "starting_series", "target_descent", "without_loss"],
    "search": ["PAPER_GRID", "Search", "grid_search", "judge", "paper_grid"],
    "evaluation": ["compare", "distance_table", "distinct_modes", "evaluate", "frequency_importance", "load_judges", "scramble_phases", "train_judges", "verdict"],
    "figures": ["plot_activations", "plot_dreams", "plot_path", "plot_projection", "plot_search", "plot_spectra", "plot_twins", "plot_violins", "save_figure"],
    "report": ["make_report", "train_model", "write_report"],
    "explorer": ["Explorer", "explore"],
    "cli": [],
}
_where = {name: part for part, names in _parts.items() for name in names}
__all__ = sorted(_where)


def __getattr__(name):
    if name in _where: value = getattr(importlib.import_module(f"{__name__}.{_where[name]}"), name)
    elif name in _parts: value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        from importlib import metadata
        try: value = metadata.version(__name__)
        except metadata.PackageNotFoundError: value = "0+unknown"
    else: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__(): return sorted({*globals(), *__all__, *_parts, "__version__"})
