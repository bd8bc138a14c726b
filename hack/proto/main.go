// Command proto prints the wire definitions that ferrolet speaks, as bare proto3 interface facts (package, names, numbers,
// types), from the descriptors compiled into the Go modules that define them. Comments and Go options are left out.
//
//	go run . OUT_DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sources maps the file to write to the descriptor it comes from.
var sources = map[string]protoreflect.FileDescriptor{
	"runtime/v1/api.proto": runtime.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto,
}

type printer struct {
	strings.Builder
	depth int
}

func (p *printer) line(format string, args ...any) {
	p.WriteString(strings.Repeat("  ", p.depth))
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

func (p *printer) block(head string, body func()) {
	p.line("%s {", head)
	p.depth++
	body()
	p.depth--
	p.line("}")
}

func typeName(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return "." + string(f.Message().FullName())
	case protoreflect.EnumKind:
		return "." + string(f.Enum().FullName())
	default:
		return f.Kind().String()
	}
}

func (p *printer) field(f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		p.line("map<%s, %s> %s = %d;", f.MapKey().Kind(), typeName(f.MapValue()), f.Name(), f.Number())
	case f.IsList():
		p.line("repeated %s %s = %d;", typeName(f), f.Name(), f.Number())
	case f.HasOptionalKeyword():
		p.line("optional %s %s = %d;", typeName(f), f.Name(), f.Number())
	default:
		p.line("%s %s = %d;", typeName(f), f.Name(), f.Number())
	}
}

func (p *printer) enum(e protoreflect.EnumDescriptor) {
	p.block("enum "+string(e.Name()), func() {
		seen := map[protoreflect.EnumNumber]bool{}
		alias := false
		for i := range e.Values().Len() {
			n := e.Values().Get(i).Number()
			alias = alias || seen[n]
			seen[n] = true
		}
		if alias {
			p.line("option allow_alias = true;")
		}
		for i := range e.Values().Len() {
			v := e.Values().Get(i)
			p.line("%s = %d;", v.Name(), v.Number())
		}
	})
}

func (p *printer) message(m protoreflect.MessageDescriptor) {
	p.block("message "+string(m.Name()), func() {
		for i := range m.Enums().Len() {
			p.enum(m.Enums().Get(i))
		}
		for i := range m.Messages().Len() {
			if n := m.Messages().Get(i); !n.IsMapEntry() {
				p.message(n)
			}
		}
		done := map[protoreflect.FullName]bool{}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			o := f.ContainingOneof()
			if o == nil || o.IsSynthetic() {
				p.field(f)
				continue
			}
			if done[o.FullName()] {
				continue
			}
			done[o.FullName()] = true
			p.block("oneof "+string(o.Name()), func() {
				for j := range o.Fields().Len() {
					p.field(o.Fields().Get(j))
				}
			})
		}
	})
}

func (p *printer) service(s protoreflect.ServiceDescriptor) {
	stream := func(on bool, m protoreflect.MessageDescriptor) string {
		if on {
			return "stream ." + string(m.FullName())
		}
		return "." + string(m.FullName())
	}
	p.block("service "+string(s.Name()), func() {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			p.line("rpc %s(%s) returns (%s);", m.Name(), stream(m.IsStreamingClient(), m.Input()), stream(m.IsStreamingServer(), m.Output()))
		}
	})
}

func render(f protoreflect.FileDescriptor) string {
	p := &printer{}
	p.line("// Written by hack/proto; edit nothing here.")
	p.line("syntax = \"proto3\";")
	p.line("package %s;", f.Package())
	for i := range f.Services().Len() {
		p.service(f.Services().Get(i))
	}
	for i := range f.Messages().Len() {
		p.message(f.Messages().Get(i))
	}
	for i := range f.Enums().Len() {
		p.enum(f.Enums().Get(i))
	}
	return p.String()
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: proto OUT_DIR")
		os.Exit(2)
	}
	for name, file := range sources {
		out := filepath.Join(os.Args[1], name)
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := os.WriteFile(out, []byte(render(file)), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
