// Reads a Zarr array with zarrita and writes the bytes of its items: node read.mjs FOLDER FILE
import { writeFileSync } from "node:fs";
import FileSystemStore from "@zarrita/storage/fs";
import { get, open } from "zarrita";

const [folder, file] = process.argv.slice(2);
const array = await open(new FileSystemStore(folder), { kind: "array" });
const { data, shape } = await get(array);
writeFileSync(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
console.log(JSON.stringify({ shape, dtype: array.dtype, attributes: array.attrs }));
