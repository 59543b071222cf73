"""Packaging. Tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "lrp_tf" / "__init__.py").read_text(), re.MULTILINE).group(1)

# tfds 4.9.10 imports importlib_resources without declaring it.
MNIST = ["tensorflow-datasets>=4.9.10", "importlib_resources", "requests", "scikit-learn>=1.5"]
PHOTOS = ["scikit-image>=0.22", "scikit-learn>=1.5"]
# Its releases follow TensorFlow's; for the warm-up requests.
SERVING = ["tensorflow-serving-api>=2.20"]
TEST = [*MNIST, *SERVING, "pytest>=8.3", "pytest-xdist>=3.7", "hypothesis>=6.100", "scipy>=1.11", "ruff==0.17.5"]
TEST += ["setuptools>=68", "wheel"]

setup(
    name="lrp_tf",
    version=VERSION,
    description="Layer-wise Relevance Propagation for Keras 3 on TensorFlow",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["lrp_tf", "lrp_tf.*"]),
    package_data={"lrp_tf": ["py.typed"]},
    # TensorFlow has no wheels for Python 3.14 yet.
    python_requires=">=3.11,<3.14",
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.12",
        "numpy>=1.26",
        "rich>=13",
        "matplotlib>=3.8",
        "opencv-python-headless>=4.9",
        "pillow>=10.3",
        "h5py>=3.10",
        "filelock>=3.20.4",
    ],
    extras_require={"mnist": MNIST, "photos": PHOTOS, "serving": SERVING, "test": TEST},
    entry_points={"console_scripts": ["lrp-tf = lrp_tf.cli:main"]},
    keywords=["explainable AI", "LRP", "layer-wise relevance propagation", "keras", "tensorflow", "heatmap"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
