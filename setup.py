"""Installation entry point; the metadata is in pyproject.toml.

The shipped configs are in `configs/` of a checkout and in the folder `detection/configs` of a wheel.
"""

from setuptools import find_packages, setup

CONFIGS = ("", ".ablations", ".classifiers")

setup(
    packages=[
        *find_packages(include=["detection", "detection.*"]),
        *(f"detection.configs{folder}" for folder in CONFIGS),
    ],
    package_dir={f"detection.configs{folder}": f"configs{folder.replace('.', '/')}" for folder in CONFIGS},
    package_data={"detection": ["py.typed"]},
)
