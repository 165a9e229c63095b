package service

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	probev1 "probed/gen/probe/v1"
	"probed/service/names"
)

const defaultPageSize = 100

type nameServer struct {
	probev1.UnimplementedNameServiceServer
	*Service
}

func (s *nameServer) LookupService(ctx context.Context, request *probev1.LookupServiceRequest) (*probev1.LookupServiceResponse, error) {
	begin := time.Now()
	found := s.names.Service(request.GetName(), request.GetProtocol())
	if len(found) == 0 {
		return nil, s.lookup(ctx, "service", begin, &notFoundError{
			reason: probev1.ErrorReason_ERROR_REASON_SERVICE_NOT_FOUND,
			kind:   "service", name: request.GetName(), protocol: request.GetProtocol(),
		})
	}
	return &probev1.LookupServiceResponse{Services: serviceMessages(found)}, s.lookup(ctx, "service", begin, nil)
}

func (s *nameServer) LookupPort(ctx context.Context, request *probev1.LookupPortRequest) (*probev1.LookupPortResponse, error) {
	begin := time.Now()
	port := uint16(request.GetPort()) // the contract bounds it
	found := s.names.Port(port, request.GetProtocol())
	return &probev1.LookupPortResponse{
		Port:      uint32(port),
		PortClass: probev1.PortClass(names.ClassOf(port)),
		Services:  serviceMessages(found),
	}, s.lookup(ctx, "port", begin, nil)
}

func (s *nameServer) ListServices(ctx context.Context, request *probev1.ListServicesRequest) (*probev1.ListServicesResponse, error) {
	begin := time.Now()
	after, err := parsePageToken(request.GetPageToken())
	if err != nil {
		return nil, s.lookup(ctx, "services", begin, err)
	}
	size := int(request.GetPageSize())
	if size == 0 {
		size = defaultPageSize
	}
	page, next := s.names.Services(request.GetProtocol(), names.PortClass(request.GetPortClass()), after, size)
	return &probev1.ListServicesResponse{
		Services:      serviceMessages(page),
		NextPageToken: pageToken(next),
	}, s.lookup(ctx, "services", begin, nil)
}

func (s *nameServer) LookupProtocol(ctx context.Context, request *probev1.LookupProtocolRequest) (*probev1.LookupProtocolResponse, error) {
	begin := time.Now()
	found, ok := s.names.Protocol(request.GetProtocol())
	if !ok {
		return nil, s.lookup(ctx, "protocol", begin, &notFoundError{
			reason: probev1.ErrorReason_ERROR_REASON_PROTOCOL_NOT_FOUND,
			kind:   "protocol", name: request.GetProtocol(),
		})
	}
	return &probev1.LookupProtocolResponse{
		Name:        found.Name,
		Number:      found.Number,
		Aliases:     found.Aliases,
		Description: found.Description,
		Source:      probev1.TableSource(found.Source),
	}, s.lookup(ctx, "protocol", begin, nil)
}

func (s *nameServer) ListConstants(ctx context.Context, request *probev1.ListConstantsRequest) (*probev1.ListConstantsResponse, error) {
	begin := time.Now()
	response := &probev1.ListConstantsResponse{Platform: names.Platform()}
	for _, constant := range names.Constants(request.GetPrefix()) {
		response.Constants = append(response.Constants, &probev1.Constant{
			Name: constant.Name, Value: int32(constant.Value), Description: constant.Description,
		})
	}
	return response, s.lookup(ctx, "constants", begin, nil)
}

// A page token is the place to go on from, opaque to callers. It names the entry and not its index, so that it stays
// right when the host's file changes between two pages.

func pageToken(next names.Cursor) string {
	if next == (names.Cursor{}) {
		return ""
	}
	text, err := json.Marshal(next)
	if err != nil { // strings and a number: it cannot
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePageToken(token string) (names.Cursor, error) {
	var place names.Cursor
	if token == "" {
		return place, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(text, &place)
	}
	// One that says the same in another way was not an answer's either.
	if err != nil || pageToken(place) != token {
		return place, &fieldError{field: "page_token", problem: "is not the nextPageToken of an answer"}
	}
	return place, nil
}
