"""What pyproject.toml cannot say: the recipes of `configs/` are installed as the package `visalign.recipes`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(".", include=["visalign*"]), *find_packages("demo", include=["visalign*"]),
                "visalign.recipes"],
      package_dir={"visalign_demo": "demo/visalign_demo", "visalign.recipes": "configs"})
