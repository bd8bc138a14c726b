// Command pod-types prints what a Go program sees of a pod: each type's fields with their order, their names in JSON and their
// types. A static pod's UID is a hash over a print of these, so that another agent that computes the same UID must know them.
//
//	go run . > src/pod/source/go_types.txt
package main

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
)

// printed tells by name what was found of each type: " Field:json:type ..." of a struct, "=type" of any other.
var printed = map[string]string{}

// opaque are types that the reader of the table knows by itself, and those of which it needs no more than the name.
var opaque = map[string]bool{
	"resource.Quantity": true, "v1.Time": true, "intstr.IntOrString": true, "v1.TypeMeta": true, "v1.ManagedFieldsEntry": true,
}

func elem(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return t.Elem()
	}
	return nil
}

// walk prints an internal type; api is its counterpart of the v1 API, which knows the names in JSON.
func walk(t, api reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		walk(t.Elem(), elem(api))
	case reflect.Map:
		if t.Name() != "" {
			printed[t.String()] = fmt.Sprintf("=map[%s]%s", t.Key(), t.Elem())
		}
		walk(t.Key(), nil)
		walk(t.Elem(), elem(api))
	case reflect.Struct:
		name := t.String()
		if _, ok := printed[name]; ok || opaque[name] {
			return
		}
		printed[name] = ""
		var fields []string
		for i := range t.NumField() {
			field := t.Field(i)
			counterpart, ok := api.FieldByName(field.Name)
			if !ok {
				panic(name + "." + field.Name + " is not in the v1 API")
			}
			json := strings.Split(counterpart.Tag.Get("json"), ",")[0]
			if json == "" {
				json = "." // Its fields stand beside it.
			}
			fields = append(fields, fmt.Sprintf("%s:%s:%s", field.Name, json, field.Type))
			// A manifest's status is not read.
			if name != "core.PodStatus" || field.Type.Kind() == reflect.String {
				walk(field.Type, counterpart.Type)
			}
		}
		printed[name] = " " + strings.Join(fields, " ")
	default:
		if t.PkgPath() != "" {
			printed[t.String()] = "=" + t.Kind().String()
		}
	}
}

func main() {
	walk(reflect.TypeFor[core.Pod](), reflect.TypeFor[v1.Pod]())
	var lines []string
	for name, what := range printed {
		lines = append(lines, name+what)
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
}
