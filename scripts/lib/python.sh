# Shell functions for the scripts: finding a Python and keeping virtual environments. To be sourced
# with the repository root as the working directory.

# Where it is set, every process compiles all that it imports anew: a second for a command, two for a
# server.
unset PYTHONDONTWRITEBYTECODE

# Prints the path of the Python to build environments with: $PYTHON, or the first of the candidates
# that works and is 3.11 or newer. 3.14 comes late: not every dependency has a wheel for it yet.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3.14 python3; do
    # A version manager's shim exists for versions that are not selected: it must also run.
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  {
    echo "error: Python 3.11 or newer with its venv module is needed and was not found on PATH."
    echo "  Debian/Ubuntu: apt-get install python3 python3-venv    macOS: brew install python"
    echo "  Or name one: PYTHON=/path/to/python3.12 $0"
  } >&2
  return 1
}

# ensure_venv DIR STAMP PIP_ARGUMENT... [-- PIP_ARGUMENT...]
# Creates the environment DIR and installs into it, unless that was done before for the same STAMP.
# What stands after -- is installed in a second step.
ensure_venv() {
  local dir=$1 stamp=$2 python
  shift 2
  if [[ -x $dir/bin/python && "$(cat "$dir/.stamp" 2>/dev/null)" == "$stamp" ]] &&
    "$dir/bin/python" -c '' 2>/dev/null; then
    return
  fi
  python="$(find_python)" || return 1
  echo "Preparing $dir with $("$python" --version) ..." >&2
  rm -f "$dir/.stamp"
  if ! "$dir/bin/python" -c 'import pip' 2>/dev/null; then
    "$python" -m venv --clear "$dir" || return 1
  fi
  install_into "$dir" "$@" || return 1
  printf '%s\n' "$stamp" >"$dir/.stamp"
}

# install_into DIR PIP_ARGUMENT... [-- PIP_ARGUMENT...]
# uv resolves and unpacks several times faster; pip does where uv is not to be had.
install_into() {
  local dir=$1
  shift
  local -a pip=("$dir/bin/python" -m pip --disable-pip-version-check --quiet)
  if "${pip[@]}" install 'uv>=0.8,<1' >/dev/null 2>&1 &&
    each_step "$dir/bin/uv" pip install --quiet --python "$dir/bin/python" == "$@"; then
    return
  fi
  "${pip[@]}" install --upgrade 'pip>=25.1' && each_step "${pip[@]}" install == "$@"
}

# each_step COMMAND... == ARGUMENT... [-- ARGUMENT...]: the command with the arguments of each step.
each_step() {
  local -a command=() arguments=()
  while [[ $1 != == ]]; do
    command+=("$1")
    shift
  done
  shift
  while (($#)); do
    arguments=()
    while (($#)) && [[ $1 != -- ]]; do
      arguments+=("$1")
      shift
    done
    "${command[@]}" "${arguments[@]}" || return 1
    if (($#)); then shift; fi
  done
}
