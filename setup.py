"""Packaging. Tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "lrp_tf" / "__init__.py").read_text(), re.MULTILINE).group(1)

# The address of the public repository stands in CITATION.cff alone, as `repository-code: https://host/owner/name`.
CITATION = (HERE / "CITATION.cff").read_text(encoding="utf-8")
FOUND = re.search(r"^repository-code: *[\"']?([^\s\"']+)", CITATION, re.MULTILINE)
REPOSITORY = FOUND.group(1).rstrip("/") if FOUND else None


def long_description() -> str:
    """README.md with links that work on a package index, which holds no other file of this folder."""

    def absolute(link: re.Match) -> str:
        image, text, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link.group()
        if REPOSITORY is None:  # nowhere to point to: the source archive holds the file
            return f"{text} ({target})"
        return f"{image}[{text}]({REPOSITORY}/{'raw' if image else 'blob'}/HEAD/{target})"

    return re.sub(r"(!?)\[([^][]+)\]\(([^()\s]+)\)", absolute, (HERE / "README.md").read_text(encoding="utf-8"))


def project_urls() -> dict[str, str]:
    urls = {"Paper": "https://doi.org/10.1371/journal.pone.0130140"}
    if REPOSITORY is not None:
        urls |= {"Source": REPOSITORY, "Issues": f"{REPOSITORY}/issues"}
        urls |= {"Documentation": f"{REPOSITORY}/tree/HEAD/docs", "Changelog": f"{REPOSITORY}/blob/HEAD/CHANGELOG.md"}
    return urls


# tfds 4.9.10 imports importlib_resources without declaring it.
MNIST = ["tensorflow-datasets>=4.9.10", "importlib_resources", "requests", "scikit-learn>=1.5"]
PHOTOS = ["scikit-image>=0.22", "scikit-learn>=1.5"]
# HEIC and AVIF photographs.
HEIF = ["pillow-heif>=1.0"]
EVALUATE = ["scipy>=1.11", "scikit-image>=0.22"]
TUNE = [*EVALUATE, "cma>=3.3"]
# Prototypes, clusters and embeddings; intervals of accuracies.
CONCEPTS = ["scikit-learn>=1.5", "scipy>=1.11"]
# The coverage table of KerasHub.
HUB = ["keras-hub>=0.32"]
# Runs what export_stablehlo wrote; only tests and benchmarks of lrp_tf need it.
JAX = ["jax>=0.4.36"]
# Its releases follow TensorFlow's; for the warm-up requests.
SERVING = ["tensorflow-serving-api>=2.20"]
# Tokenizers of `lrp-tf explain-text`; functions of one's own need neither.
TEXT = ["tokenizers>=0.20", "sentencepiece>=0.2"]
# NIfTI files.
VOLUMES = ["nibabel>=5.2"]
# WAV, FLAC and Ogg files.
AUDIO = ["soundfile>=0.12"]
# Films are written as H.264, which players and browsers show; OpenCV's wheel has no encoder for it. The live page.
VIDEO = ["av>=15", "flask>=3.0"]
# F1, confusion matrix and the bundled digits of vgg/train.py.
TRAIN = ["scikit-learn>=1.5"]
# tf.summary does not work without it.
TENSORBOARD = ["tensorboard>=2.18"]
# Explanations by many processes and machines; parquet files, tar shards, and images in stores.
RAY = ["ray[data]>=2.55", "pyarrow>=17"]
# The site, and the notebook that a test runs.
DOCS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29", "nbclient>=0.10", "ipykernel>=6.29"]
# make dist
DIST = ["build>=1.2", "twine>=6", "setuptools>=68", "wheel"]
# It drives a Chromium that is installed already.
BROWSER = ["playwright>=1.48"]
TEST = [
    *MNIST,
    *SERVING,
    *HEIF,
    *EVALUATE,
    *TUNE,
    *CONCEPTS,
    *TEXT,
    *VOLUMES,
    *AUDIO,
    *VIDEO,
    *TENSORBOARD,
    "pytest>=8.3",
    "pytest-xdist>=3.7",
    "hypothesis>=6.100",
    "simpy>=4.1",
    "ruff==0.17.5",
]
TEST += ["mypy==2.4.1", "setuptools>=68", "wheel"]

setup(
    name="lrp_tf",
    version=VERSION,
    description="Layer-wise Relevance Propagation for Keras 3 on TensorFlow",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["lrp_tf", "lrp_tf.*"]),
    package_data={"lrp_tf": ["py.typed", "gallery/page/*.html", "gallery/page/*.css", "gallery/page/*.js"]},
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
        "jinja2>=3.1",
    ],
    extras_require={
        "mnist": MNIST,
        "photos": PHOTOS,
        "serving": SERVING,
        "jax": JAX,
        "heif": HEIF,
        "evaluate": EVALUATE,
        "tune": TUNE,
        "concepts": CONCEPTS,
        "hub": HUB,
        "text": TEXT,
        "volumes": VOLUMES,
        "audio": AUDIO,
        "video": VIDEO,
        "train": TRAIN,
        "tensorboard": TENSORBOARD,
        "ray": RAY,
        "docs": DOCS,
        "dist": DIST,
        "browser": BROWSER,
        "test": TEST,
    },
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
