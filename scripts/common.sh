# Sourced by the wrappers: $repo is the repository, $python the interpreter. PYTHON overrides; else the repository's .venv; else python3.
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -n "${PYTHON:-}" ]; then
  python="$PYTHON"
elif [ -x "$repo/.venv/bin/python" ]; then
  python="$repo/.venv/bin/python"
else
  python=python3
fi
case ":${PYTHONPATH:-}:" in
  *":$repo/src:"*) ;;
  *) export PYTHONPATH="$repo/src${PYTHONPATH:+:$PYTHONPATH}" ;;
esac

fail() { # fail <sentence>: the user can mend it
  echo "error: $1" >&2
  exit 2
}

find_file() { # find_file <path>: as given, or below the repository when it is not there
  if [ ! -e "$1" ] && [ -e "$repo/$1" ]; then
    echo "$repo/$1"
  else
    echo "$1"
  fi
}

read_arguments() { # read_arguments "<names>" key=value…: sets the named variables; what contains a dot goes to $overrides
  local names=" $1 " argument key
  shift
  overrides=()
  for argument in "$@"; do
    key="${argument%%=*}"
    if [ "$key" = "$argument" ]; then
      fail "cannot read '$argument'; write key=value with one of:$names"
    elif [[ "$key" == *.* ]]; then
      overrides+=("$argument")
    elif [[ "$names" == *" $key "* ]]; then
      printf -v "$key" '%s' "${argument#*=}"
    else
      fail "unknown argument '$key'; known:$names(and settings such as training.max_steps=5)"
    fi
  done
}
