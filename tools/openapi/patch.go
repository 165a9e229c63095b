package main

import (
	"fmt"
	"maps"
	"slices"
)

// every is the member of a patch that is for all operations.
const every = "x-every-operation"

// apply merges the patch into the document.
func apply(patch, document object) error {
	operations, _ := patch[every].(object)
	delete(patch, every)
	for path, methods := range at(document, "paths") {
		for method, operation := range methods.(object) {
			merged, err := merge(operation, operations, path+"."+method)
			if err != nil {
				return err
			}
			methods.(object)[method] = merged
		}
	}
	_, err := merge(document, patch, "")
	return err
}

// merge returns the target with the patch in it. Objects and lists are changed in place. What the patch takes away has to be
// there, and so has the element that it names: else it is of another name by now. An element to be added says its name itself.
func merge(target, patch any, path string) (any, error) {
	members, ok := patch.(object)
	if !ok {
		return patch, nil
	}
	if list, ok := target.([]any); ok {
		return mergeNamed(list, members, path)
	}
	merged, ok := target.(object)
	if !ok {
		merged = object{}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if members[name] == nil {
			if _, ok := merged[name]; !ok {
				return nil, fmt.Errorf("%s.%s is not there to be taken away", path, name)
			}
			delete(merged, name)
			continue
		}
		if name == "value" { // an example, in which null is null
			merged[name] = members[name]
			continue
		}
		var err error
		if merged[name], err = merge(merged[name], members[name], path+"."+name); err != nil {
			return nil, err
		}
	}
	return merged, nil
}

func mergeNamed(list []any, patches object, path string) (any, error) {
	for _, name := range slices.Sorted(maps.Keys(patches)) {
		i := slices.IndexFunc(list, func(element any) bool { return element.(object)["name"] == name })
		if added, ok := patches[name].(object); i < 0 && ok && added["name"] == name {
			list = append(list, added)
			continue
		}
		if i < 0 {
			return nil, fmt.Errorf("%s has no element named %s", path, name)
		}
		if patches[name] == nil {
			list = slices.Delete(list, i, i+1)
			continue
		}
		merged, err := merge(list[i], patches[name], path+"."+name)
		if err != nil {
			return nil, err
		}
		list[i] = merged
	}
	return list, nil
}
