"""The environment inside: an allow-list of names; values are taken when a command starts."""

from __future__ import annotations

from typing import Final

PASSED: Final = (
    # terminal and colours
    "TERM", "COLORTERM", "TERM_PROGRAM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR*",
    # language and time
    "LANG", "LANGUAGE", "LC_*", "TZ",
    # who
    "USER", "LOGNAME",
    # the Python that people asked for; PYTHONHOME would break it
    "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONWARNINGS",
    "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONDEVMODE", "PYTHONFAULTHANDLER", "PYTHONOPTIMIZE",
    "PYTHONASYNCIODEBUG", "PYTHONTRACEMALLOC", "PYTHONVERBOSE", "PYTHONNOUSERSITE", "PYTHONPATH",
    "PYTHONSAFEPATH", "PYTHONBREAKPOINT", "PYTHONMALLOC", "PYTHON_COLORS", "PYTHON_GIL", "PYTHON_JIT",
    # package indexes, certificates and proxies: the same packages as outside, or none
    "PIP_*", "UV_INDEX*", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_*",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
    # builds
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "SOURCE_DATE_EPOCH",
    # how many threads numerical libraries start, and for which processor
    "OMP_*", "OPENBLAS_*", "MKL_*", "NUMEXPR_*", "VECLIB_*", "GOTO_NUM_THREADS", "BLIS_*",
)  # fmt: skip
"""No credential is on this list; an index URL may carry one, which is the user's deliberate choice."""


def search_path(bin_directory: str) -> str:
    """Return ``$PATH`` inside: the box first, then the system's own directories."""
    system = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    return f"{bin_directory}:{system}"
