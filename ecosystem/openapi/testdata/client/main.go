// Command client is what somebody writes with a client that is generated from the document: beside it stands what oapi-codegen
// makes. Arguments: the URL of a probed, a token, a target, and one that is denied.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, token, target, denied string) error {
	client, err := NewClientWithResponses(url, WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
	if err != nil {
		return err
	}
	port, err := client.NameServiceLookupPortWithResponse(ctx, 22, &NameServiceLookupPortParams{Protocol: new("tcp")})
	if err != nil {
		return err
	}
	if port.JSON200 == nil {
		return errors.New("lookup: " + port.Status())
	}
	fmt.Println("port 22 is", port.JSON200.Services[0].Name, port.JSON200.PortClass)

	connect, err := client.ExchangeServiceConnectWithResponse(ctx, ConnectRequest{Target: target, Timeout: new("5s")})
	if err != nil {
		return err
	}
	if connect.JSON200 == nil {
		return errors.New("connect: " + connect.Status())
	}
	outcome := connect.JSON200.Outcome
	fmt.Println("connect", outcome.Ok, outcome.Phase, outcome.Family, outcome.TcpInfo != nil, outcome.Tls == nil)

	if connect, err = client.ExchangeServiceConnectWithResponse(ctx, ConnectRequest{Target: denied}); err != nil {
		return err
	}
	if connect.JSON403 == nil {
		return errors.New("denied: " + connect.Status())
	}
	info, err := connect.JSON403.Details[0].AsErrorInfo()
	fmt.Println("denied", info.Reason, info.Metadata["rule"])
	return err
}
