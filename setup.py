"""Packaging: everything comes from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]


def lines(text):
    "The lines of a setting that holds several."
    return [line.strip() for line in text.splitlines() if line.strip()]


extras = {k.removeprefix("extras_"): lines(v) for k, v in settings.items() if "extras_" in k}
points = {
    "console_scripts": lines(settings["console_scripts"]),
    "nbdev": ["seqdream=seqdream._modidx:d"],
}

setup(
    name=settings["name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license_expression=settings["license"],
    license_files=["LICENSE"],
    keywords=[word.strip() for word in settings["keywords"].split(",")],
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=f">={settings['min_python']}",
    packages=["seqdream"],
    include_package_data=False,  # package_data says it all; else zoo/ is taken for a package
    package_data={
        "seqdream": ["zoo/*.safetensors", "zoo/*.json", "templates/*", "static/*", "py.typed"]
    },
    install_requires=lines(settings["requirements"]),
    extras_require=extras,
    entry_points=points,
    zip_safe=False,
)
