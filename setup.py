"""Packages the jobs and the models, for this machine and for Beam's remote workers (`--setup_file=./setup.py`)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "vcls_model" / "__init__.py").read_text()).group(1)

setup(
    name="video-classification",
    version=VERSION,
    description="Multi-label video classification at YouTube-8M scale on Apache Beam and Keras",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["pipelines", "pipelines.*", "vcls_model", "vcls_model.*"]),
    package_data={
        "pipelines.preprocessing": ["templates/*"],
        "pipelines.reporting": ["page/templates/*"],
        "vcls_model.encoders": ["*.csv"],
    },
    entry_points={
        "console_scripts": [
            "vcls-extract = pipelines.extract:command",
            "vcls-preprocess = pipelines.preprocess:command",
            "vcls-train = vcls_model.train:command",
            "vcls-score = pipelines.score:command",
            "vcls-report = pipelines.report:command",
        ]
    },
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords=["video classification", "YouTube-8M", "multi-label", "Apache Beam", "Keras"],
    python_requires=">=3.10,<3.14",
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "av>=17,<19",
        "jinja2>=3.1,<4",
        "keras>=3.10,<4",
        "matplotlib>=3.9,<4",
        "numba>=0.61,<1",
        "numpy>=2.1,<3",
        "onnxruntime>=1.20,<2",
        "opencv-python-headless>=4.10,<6",
        "pandas>=2.2,<4",
        "pillow>=10,<14",
        "protobuf>=4.25,<7",
        "pyarrow>=18",
        "pydantic>=2.9,<3",
        "scikit-learn>=1.5,<2",
        "tensorflow>=2.21,<2.22",
        "tensorflow-transform>=1.21,<1.22",
        "tfx-bsl>=1.21,<1.22",
        "typing-extensions>=4.12",
    ],
    extras_require={
        "aws": ["boto3>=1.35,<2"],
        "gcp": ["apache-beam[gcp]>=2.77,<2.78"],
        "tune": ["keras-tuner>=1.4,<2"],
        "tensorboard": ["tensorboard>=2.19,<3"],
        "dev": [
            "apache-beam[gcp]>=2.77,<2.78",
            "boto3>=1.35,<2",
            "gcp-storage-emulator>=2024.8",
            "google-crc32c>=1.6,<2",
            "hypothesis>=6.100,<7",
            "imageio-ffmpeg>=0.6,<1",
            "import-linter>=2.5,<3",
            "keras-tuner>=1.4,<2",
            "moto[s3,server]>=5,<6",
            "mypy>=1.13,<3",
            "onnx>=1.18,<2",
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.8,<1",
            "selenium>=4.25,<5",
            "setuptools>=70",
            "tensorboard>=2.19,<3",
            "wheel>=0.43",
        ],
    },
)
