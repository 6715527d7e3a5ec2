# Sourced by the pipelines. They run with the bash 3.2 and the tools of macOS, too.

# absolute PATH: the same from the root of the file system
absolute() {
  case $1 in
    /*) echo "$1" ;;
    *)  echo "$PWD/$1" ;;
  esac
}

# prepare: go to the repository's root, and make `python` one that has Paddle: the caller's own, or else that of .venv,
# which is set up first.
prepare() {
  cd "$(dirname "$0")/.."
  if ! python -c 'import sys, importlib.util as i; sys.exit(i.find_spec("paddle") is None)' 2>/dev/null; then
    bash setup.sh .venv requirements.txt
    PATH=$PWD/.venv/bin:$PATH
  fi
}

# convert_splits TRAIN TEST OUT: split files -> OUT/train_data, OUT/test_data, OUT/vocab.txt
convert_splits() {
  mkdir -p "$3/raw_train_data" "$3/raw_test_data"
  python convert_format.py --train_input "$1" --train_output "$3/raw_train_data/train.txt" \
    --test_input "$2" --test_output "$3/raw_test_data/test.txt"
  python text2paddle.py "$3/raw_train_data" "$3/raw_test_data" "$3/train_data" "$3/test_data" "$3/vocab.txt"
}
