// Verifies a sealed log with Go's packages for transparency logs: the signed checkpoint, every entry against
// authenticated tiles, and the consistency with an old checkpoint. Prints the size of the tree.
//
//	tlog FOLDER VKEY [OLD]
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type reader struct{ folder string }

func (r reader) Height() int                           { return height }
func (r reader) SaveTiles(tiles []tlog.Tile, _ [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := [][]byte{}
	for _, tile := range tiles {
		// Go writes `tile/8/0/000`; c2sp.org/tlog-tiles has one height, and leaves it out.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		raw, err := os.ReadFile(filepath.Join(r.folder, path))
		if err != nil {
			return nil, err
		}
		found = append(found, raw)
	}
	return found, nil
}

func checkpoint(path string, verifiers note.Verifiers) tlog.Tree {
	raw, err := os.ReadFile(path)
	must(err)
	opened, err := note.Open(raw, verifiers)
	must(err)
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	folder := os.Args[1]
	verifier, err := note.NewVerifier(os.Args[2])
	must(err)
	verifiers := note.VerifierList(verifier)
	tree := checkpoint(filepath.Join(folder, "checkpoint"), verifiers)
	hashes := tlog.TileHashReader(tree, reader{folder})
	for index := int64(0); index < tree.N; index += 256 {
		width := tree.N - index
		if width > 256 {
			width = 256
		}
		tile := tlog.Tile{H: height, L: 0, N: index / 256, W: int(width)}
		path := strings.Replace(tile.Path(), "tile/8/0/", "tile/entries/", 1)
		bundle, err := os.ReadFile(filepath.Join(folder, path))
		must(err)
		for at := index; at < index+width; at++ {
			length := int(binary.BigEndian.Uint16(bundle))
			entry := bundle[2 : 2+length]
			bundle = bundle[2+length:]
			stored, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, at)})
			must(err)
			if stored[0] != tlog.RecordHash(entry) {
				must(fmt.Errorf("entry %d does not have its hash", at))
			}
			if length != sha256.Size {
				must(fmt.Errorf("entry %d is not a digest", at))
			}
		}
		if len(bundle) != 0 {
			must(fmt.Errorf("the bundle at %d is too long", index))
		}
	}
	if len(os.Args) > 3 {
		old := checkpoint(os.Args[3], verifiers)
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		must(err)
		must(tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash))
		for _, hash := range proof {
			fmt.Println(base64.StdEncoding.EncodeToString(bytes.Clone(hash[:])))
		}
	}
	fmt.Println(tree.N)
}
