"""What has a time series classifier learned? Activation maximization for torch models.

Written by hand, unlike the other modules: each part is imported on first use (PEP 562), so that
`import seqdream` costs nothing. What is looked up here has its parameters' comments added to its
docstring (see `seqdream.help`).
"""

import importlib
import sys
from types import ModuleType

_parts = {
    "checks": "",
    "files": "",
    "classes": "check_labels class_index",
    "data": "Dataset Physical check_series z_normalise",
    "models": """FCN InceptionTime NETWORKS PRESETS ResNet load_model make_model pretrained_models
        save_model""",
    "borrowing": "",
    "forms": "Adapter",
    "guests": "accuracy inspect_model predict",
    "training": "Augment fit plot_history",
    "help": "",
    "texts": "",
    "formats": "",
    "tables": "",
    "readers": "available_datasets load_dataset",
    "activations": "Probe",
    "reference": "Reference load_pretrained",
    "objectives": """Objective REGIONS class_margin climb direction margin reach region_target score
        tie""",
    "transforms": """Clamp ClampSpectrum ExponentialSmoothing GaussianBlur L2Decay MovingAverage
        NoiseOnOvershoot NoiseOnStall RandomRestart RandomScaling UnitGradient clamp_spectrum_to
        clamp_to""",
    "penalties": "AlphaNorm Diversity Smoothness TotalVariation amplitude_spectrum",
    "parametrizations": "Fourier Hold Phase Time Wavelet Whitened",
    "steps": "Smoothing",
    "dreaming": "Dreams dream",
    "methods": """CONTROLS METHODS control ellis gradient_ascent median_spectrum sequence_dreaming
        starting_series target_descent without_loss""",
    "grounding": "Band Jitter TrustRegion band grounded_dreaming trust_region typical",
    "grid": "PAPER_GRID paper_grid",
    "search": "Search grid_search judge",
    "judges": "load_judges train_judges",
    "twins": "compare scramble_phases",
    "evaluation": "distance_table evaluate frequency_importance",
    "verdict": "distinct_modes verdict",
    "figures": """plot_activations plot_dreams plot_path plot_projection plot_search plot_spectra
        plot_twins plot_violins save_figure""",
    "report": "make_report train_model write_report",
    "explorer": "Explorer explore",
    "cli": "",
}
_where = {name: part for part, names in _parts.items() for name in names.split()}
__all__ = sorted(_where)


def __getattr__(name):
    if name in _where:
        from .help import with_help

        value = getattr(importlib.import_module(f"{__name__}.{_where[name]}"), name)
        if str(getattr(value, "__module__", "")).partition(".")[0] == __name__:
            value = with_help(value)
    elif name in _parts:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def _version():
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __dir__():
    return sorted({*globals(), *__all__, *_parts, "__version__"})


class _Package(ModuleType):
    "A part that has the name of a function in it, as `verdict` does, never hides the function."

    def __setattr__(self, name, value):
        if not (name in _where and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
