// What Go reads: net/http and encoding/json.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

type order struct {
	To     any `json:"to"`
	Amount any `json:"amount"`
	Note   any `json:"note"`
	Role   any `json:"role"`
	Item   any `json:"item"`
}

func text(value string) any { return map[string]any{"s": hex.EncodeToString([]byte(value))} }

func written(value any) any {
	switch known := value.(type) {
	case nil, bool:
		return known
	case float64:
		return map[string]any{"n": strconv.FormatFloat(known, 'g', -1, 64)}
	case string:
		return text(known)
	case []any:
		found := make([]any, len(known))
		for i, one := range known {
			found[i] = written(one)
		}
		return found
	case map[string]any:
		found := [][]any{}
		for name, one := range known {
			found = append(found, []any{hex.EncodeToString([]byte(name)), written(one)})
		}
		return map[string]any{"o": found}
	}
	return text(fmt.Sprintf("%T", value))
}

func fields(values url.Values) any {
	found := map[string]any{}
	for name, some := range values {
		if len(some) == 1 {
			found[name] = some[0]
			continue
		}
		list := []any{}
		for _, one := range some {
			list = append(list, one)
		}
		found[name] = list
	}
	return written(found)
}

func members(found order) any {
	given := map[string]any{}
	for name, value := range map[string]any{
		"to": found.To, "amount": found.Amount, "note": found.Note, "role": found.Role, "item": found.Item,
	} {
		if value != nil {
			given[name] = value
		}
	}
	return written(given)
}

func reading(name string, read func(*http.Request) (any, error)) {
	http.HandleFunc(name, func(w http.ResponseWriter, r *http.Request) {
		found, err := read(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(400)
			json.NewEncoder(w).Encode(map[string]any{"refused": err.Error()})
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"read": found})
	})
}

func main() {
	reading("/struct", func(r *http.Request) (any, error) {
		var found order
		err := json.NewDecoder(r.Body).Decode(&found)
		return members(found), err
	})
	reading("/struct-whole", func(r *http.Request) (any, error) {
		var found order
		content, _ := io.ReadAll(r.Body)
		err := json.Unmarshal(content, &found)
		return members(found), err
	})
	reading("/map", func(r *http.Request) (any, error) {
		var found map[string]any
		err := json.NewDecoder(r.Body).Decode(&found)
		return written(found), err
	})
	reading("/form", func(r *http.Request) (any, error) {
		err := r.ParseForm()
		return fields(r.PostForm), err
	})
	reading("/form-value", func(r *http.Request) (any, error) { // it looks at no error
		found := url.Values{}
		for _, name := range []string{"to", "amount", "note", "role", "item", "_method"} {
			if value := r.PostFormValue(name); value != "" {
				found.Set(name, value)
			}
		}
		return fields(found), nil
	})
	reading("/query", func(r *http.Request) (any, error) { return fields(r.URL.Query()), nil })
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listening.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listening, nil))
}
