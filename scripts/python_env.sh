#!/usr/bin/env bash
# Makes .venv with the packages of scripts/requirements.txt. Does nothing where it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=scripts/requirements.txt
installed=.venv/requirements.txt
if [[ -x .venv/bin/python ]] && cmp -s "$wanted" "$installed"; then
  exit 0
fi
rm -rf .venv
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$installed"
