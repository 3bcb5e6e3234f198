// A witness of c2sp.org/tlog-witness with Go's packages for transparency logs. It cosigns what extends the last
// checkpoint that it saw, and prints its public key and its port.
//
//	witness NAME ORIGIN LOGKEY
package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type witness struct {
	sync.Mutex
	name, origin string
	key          ed25519.PrivateKey
	log          note.Verifiers
	latest       tlog.Tree
}

func (w *witness) keyID() []byte {
	public := w.key.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(append([]byte(w.name+"\n\x04"), public...))
	return sum[:4]
}

func (w *witness) ServeHTTP(out http.ResponseWriter, in *http.Request) {
	w.Lock()
	defer w.Unlock()
	if in.Method != "POST" || in.URL.Path != "/add-checkpoint" {
		http.Error(out, "not here", 404)
		return
	}
	raw, err := io.ReadAll(io.LimitReader(in.Body, 1<<20))
	head, signed, found := strings.Cut(string(raw), "\n\n")
	if err != nil || !found {
		http.Error(out, "malformed", 400)
		return
	}
	opened, err := note.Open([]byte(signed), w.log)
	if err != nil {
		http.Error(out, err.Error(), 403)
		return
	}
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != w.origin {
		http.Error(out, "unknown origin", 404)
		return
	}
	size, _ := strconv.ParseInt(lines[1], 10, 64)
	root, _ := base64.StdEncoding.DecodeString(lines[2])
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	scanner := bufio.NewScanner(strings.NewReader(head))
	scanner.Scan()
	old, err := strconv.ParseInt(strings.TrimPrefix(scanner.Text(), "old "), 10, 64)
	if err != nil || old > size {
		http.Error(out, "malformed old size", 400)
		return
	}
	if old != w.latest.N {
		out.Header().Set("Content-Type", "text/x.tlog.size")
		out.WriteHeader(409)
		fmt.Fprintf(out, "%d\n", w.latest.N)
		return
	}
	proof := tlog.TreeProof{}
	for scanner.Scan() {
		raw, _ := base64.StdEncoding.DecodeString(scanner.Text())
		hash := tlog.Hash{}
		copy(hash[:], raw)
		proof = append(proof, hash)
	}
	if old == size && tree.Hash != w.latest.Hash {
		out.WriteHeader(409)
		return
	}
	if old > 0 {
		if err := tlog.CheckTree(proof, size, tree.Hash, old, w.latest.Hash); err != nil {
			http.Error(out, err.Error(), 422)
			return
		}
	}
	w.latest = tree
	now := uint64(time.Now().Unix())
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", now, opened.Text)
	signature := binary.BigEndian.AppendUint64(w.keyID(), now)
	signature = append(signature, ed25519.Sign(w.key, []byte(message))...)
	fmt.Fprintf(out, "— %s %s\n", w.name, base64.StdEncoding.EncodeToString(signature))
}

func main() {
	verifier, err := note.NewVerifier(os.Args[3])
	if err != nil {
		panic(err)
	}
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	w := &witness{name: os.Args[1], origin: os.Args[2], key: private, log: note.VerifierList(verifier)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	key := base64.StdEncoding.EncodeToString(append([]byte{4}, public...))
	fmt.Printf("%s+%x+%s %d\n", w.name, w.keyID(), key, listener.Addr().(*net.TCPAddr).Port)
	go func() { io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	http.Serve(listener, w)
}
