// The shop in each driver and ORM of Go.
//
//	shop ORM DRIVER SCENARIO TWIN
//
// Enters and leaves: what tests/orm/matrix.py says of every shop's program. A goroutine answers a request.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	bookCount   = 20
	authorCount = 10
	connections = 4
)

// Row is what a page shows of one row.
type Row = []string

// Page answers one request.
type Page func(ctx context.Context) ([]Row, error)

// Shop has a page for each scenario and twin.
type Shop func(scenario, twin string) Page

type requestKey struct{}

// tagged is a statement with the comment of the request that it belongs to.
func tagged(ctx context.Context, sql string) string {
	if tags, is := ctx.Value(requestKey{}).(string); is {
		return sql + " /*" + tags + "*/"
	}
	return sql
}

func pooled() bool { return os.Getenv("SHOP_POOLED") != "" }

func main() {
	log.SetFlags(0)
	orm, scenario, twin := os.Args[1], os.Args[3], os.Args[4]
	name, inTransaction := strings.CutSuffix(orm, "-transaction")
	shops := map[string]func(inTransaction bool) (Shop, error){"database/sql": libpq, "pgx": pgxShop, "gorm": gormShop}
	shop, err := shops[name](inTransaction)
	if err != nil {
		log.Fatal(err)
	}
	page := shop(scenario, twin)
	var group sync.WaitGroup
	var next atomic.Int64
	var output sync.Mutex
	for range number("SHOP_AT_ONCE") {
		group.Go(func() {
			for request := next.Add(1); request <= int64(number("SHOP_REQUESTS")); request = next.Add(1) {
				rows, err := page(requestContext(scenario, request))
				if err != nil {
					log.Fatal(err)
				}
				line, err := json.Marshal(rows)
				if err != nil {
					log.Fatal(err)
				}
				output.Lock()
				fmt.Println(string(line))
				output.Unlock()
			}
		})
	}
	group.Wait()
	io.Copy(io.Discard, os.Stdin)
}

func requestContext(scenario string, request int64) context.Context {
	if os.Getenv("SHOP_TAGGED") == "" {
		return context.Background()
	}
	tags := fmt.Sprintf("request_id='r%d-%d',route='/%s'", os.Getpid(), request, scenario)
	return context.WithValue(context.Background(), requestKey{}, tags)
}

func number(name string) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatal(err)
	}
	return value
}
