package httpapi

import (
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/anteroom-chat/anteroom/pkg/wire"
)

const securityScheme = "identity"

// roomIDPattern expresses in OpenAPI what wire.CheckID checks.
const roomIDPattern = "^[A-Za-z0-9_-]{1,64}$"

// roomIDParam and pageSizeParam are read as text, and documented as what they are: huma checks
// neither.
type (
	roomIDParam   string
	pageSizeParam string
)

// Schema is the parameter's documentation.
func (roomIDParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: roomIDPattern}
}

// Schema is the parameter's documentation.
func (pageSizeParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Minimum: number(1), Maximum: number(wire.MaxPageSize), Default: wire.DefaultPageSize}
}

var (
	exampleIdentity = identityAnswer{
		UserID: "u_K3N7Q2ZPV5XJTRM4WBYH6DCE2A", Identity: "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1X0szIn0.c2ln",
		ExpireTime: "2027-01-02T12:00:00.000Z",
	}
	exampleCreateRoom = createRoomBody{RoomID: new("lobby"), Title: "The lobby", Capacity: new(int32(8))}
	exampleRoom       = roomAnswer{
		RoomID: "lobby", Epoch: "1m3k9x", Title: "The lobby", Capacity: 8, Reserved: 1, Occupied: 2,
		Presence: presenceFull, CreateTime: "2027-01-01T12:00:00.000Z",
	}
	examplePermit = permitAnswer{
		Permit: "lobby.4YV2M6H3QK", RoomID: "lobby", UserID: exampleIdentity.UserID,
		ExpireTime: "2027-01-01T12:00:15.000Z", TTLSeconds: wire.PermitTTL.Seconds(), URL: "/chat?permit=lobby.4YV2M6H3QK",
	}
)

func newSpec() *huma.OpenAPI {
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title:   "Anteroom",
			Version: "1",
			Description: "Rooms with a fixed number of seats: reserve a seat, then join over the WebSocket at /chat. " +
				"Errors are RFC 9457 problems; decide by their code.",
		},
		Servers: []*huma.Server{{URL: "/"}},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
			SecuritySchemes: map[string]*huma.SecurityScheme{securityScheme: {
				Type: "http", Scheme: "bearer", BearerFormat: "JWT",
				Description: "An identity: made by POST /v1/identities, or signed by another service that has the key.",
			}},
		},
	}
}

// schemaName returns the name of a type's schema in the document: that of roomAnswer is Room.
func schemaName(t reflect.Type, hint string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(huma.DefaultSchemaNamer(t, hint), "Answer"), "Body")
	return strings.ToUpper(name[:1]) + name[1:]
}

// operation completes op. It turns huma's validation off, and adds examples and all error
// responses. refusals are the error codes of this operation; those of all operations are
// added.
func operation(op huma.Operation, request, answer any, refusals ...wire.Code) huma.Operation {
	op.SkipValidateBody = true
	op.SkipValidateParams = true
	op.MaxBodyBytes = MaxBodyBytes + 1 // checkBody decides; huma refuses at the limit, not above it
	// Nor does huma set a read deadline. It would remain after the body: once it passed, net/http
	// would cancel every later request of the connection.
	op.BodyReadTimeout = -1
	if request != nil {
		op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Example: request}}}
	}
	if op.DefaultStatus == 0 {
		op.DefaultStatus = http.StatusOK
	}
	op.Responses = map[string]*huma.Response{}
	if answer != nil {
		op.Responses[strconv.Itoa(op.DefaultStatus)] = &huma.Response{
			Content: map[string]*huma.MediaType{"application/json": {Example: answer}},
		}
	}
	for _, code := range append(refusals, wire.RateLimited, wire.Unavailable, wire.Internal) {
		addRefusal(&op, code)
	}
	return op
}

var exampleDetails = map[wire.Code]string{
	wire.BadRequest:      "capacity is 0, outside 1 to 100000",
	wire.Unauthenticated: "the identity has expired",
	wire.RoomNotFound:    `there is no room "lobby"`,
	wire.RoomExists:      `there is a room "lobby" already`,
	wire.RoomFull:        `every seat of room "lobby" is taken`,
	wire.RateLimited:     "more than 10 requests per second from your address",
	wire.Unavailable:     "the room service is out of reach",
	wire.Internal:        "something went wrong on our side",
}

// addRefusal documents one code. Codes of the same status share a response.
func addRefusal(op *huma.Operation, code wire.Code) {
	t := code.Translate()
	status := strconv.Itoa(t.HTTP)
	answer := op.Responses[status]
	if answer == nil {
		answer = &huma.Response{
			Description: t.Title,
			Content: map[string]*huma.MediaType{"application/problem+json": {
				Schema:   &huma.Schema{Ref: "#/components/schemas/Problem"},
				Examples: map[string]*huma.Example{},
			}},
		}
		op.Responses[status] = answer
	}
	problem := problemOf(wire.Errorf(code, "%s", exampleDetails[code]))
	answer.Content["application/problem+json"].Examples[string(code)] = &huma.Example{Summary: t.Title, Value: problem}
	for name := range problem.GetHeaders() {
		if answer.Headers == nil {
			answer.Headers = map[string]*huma.Param{}
		}
		answer.Headers[name] = &huma.Header{Schema: &huma.Schema{Type: huma.TypeString}}
	}
}

// finishSpec adds what tags cannot express, with the numbers of package wire.
func finishSpec(doc *huma.OpenAPI) []byte {
	schemas := doc.Components.Schemas
	schemas.Schema(reflect.TypeFor[problem](), true, "Problem")
	all := schemas.Map()

	for _, answer := range []string{"Identity", "Room", "RoomList", "Permit", "Problem"} {
		all[answer].AdditionalProperties = nil // clients must accept new fields
	}
	code := all["Problem"].Properties["code"]
	for _, c := range wire.Codes() {
		code.Enum = append(code.Enum, c)
	}
	all["CreateIdentity"].Properties["nickname"].MaxLength = new(wire.MaxNicknameLen)
	room := all["CreateRoom"].Properties
	room["roomId"].Pattern = roomIDPattern
	room["title"].MaxLength = new(wire.MaxTitleLen)
	between(room["capacity"], 1, wire.MaxCapacity)
	between(room["emptyTimeoutSeconds"], 1, wire.MaxTimeoutSeconds)
	between(room["departureTimeoutSeconds"], 0, wire.MaxTimeoutSeconds)
	// Not as tags: huma would fill them in for the user, and the defaults are the room service's.
	room["emptyTimeoutSeconds"].Default, room["departureTimeoutSeconds"].Default = wire.DefaultEmptySeconds, 0
	return mustJSON(doc)
}

func between(s *huma.Schema, low, high float64) { s.Minimum, s.Maximum = number(low), number(high) }

func number(n float64) *float64 { return &n }
